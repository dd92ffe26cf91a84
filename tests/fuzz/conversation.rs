//! What a program says, line by line, in a conversation with requests under way.
//!
//! Promised: an answer reaches a request that was under way, once, and only if an ordinary reader takes it for that
//! request's; what is heard beside one reaches only who listens; what was said before is not needed to read a line; and
//! lines are the same however what is said is cut into chunks.

use std::collections::BTreeSet;

use bailiwick_data_plane_core::conversation::{Conversation, Lines, Said, Sort};
use bailiwick_proto::mcp::{Era, RequestId, read_response};

use crate::{
    mutate::Random,
    targets::{Checked, from, promise},
};

const SAID: [&str; 6] = [
    "{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"n\":1.0}}\n{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}\n",
    "Starting...\n{\"jsonrpc\":\"2.0\",\"id\":8,\"error\":{\"code\":-1,\"message\":\"m\"}}\n{}\n",
    "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":7,\"progress\":1}}\r\n",
    "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32700,\"message\":\"?\"}}\n{\"id\":9,\"jsonrpc\":\"2.0\"\n",
    "{\"jsonrpc\":\"2.0\",\"id\":\"q\",\"method\":\"elicitation/create\",\"params\":{}}\n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n",
    "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\",\"params\":{\"_meta\":{\"io.modelcontextprotocol/subscriptionId\":9}}}\n",
];
const LINE_MAX: usize = 4 * 1024;

pub(crate) fn one(random: &mut Random) -> Vec<u8> {
    from(random, &SAID)
}

pub(crate) fn check(input: &[u8]) -> Checked {
    let read = Lines::new(LINE_MAX).feed(input);
    let mut reader = Lines::new(LINE_MAX);
    let bytewise: Result<Vec<_>, _> = input.iter().map(|byte| reader.feed(&[*byte])).collect();
    promise(bytewise.map(|lines| lines.concat()) == read, "other lines when they come byte by byte")?;
    let Ok(lines) = read else { return Ok(false) };
    let mut accepted = false;
    for (shared, era) in [(false, Era::Legacy("2025-11-25")), (true, Era::Legacy("2025-11-25")), (false, Era::Modern)] {
        let mut conversation = Conversation::new(shared);
        conversation.speaks(era);
        let asked = [(7, Sort::Call), (8, Sort::Plain), (9, Sort::Subscription)];
        let mut waiting: BTreeSet<RequestId> = BTreeSet::new();
        for (id, of) in asked {
            let id = RequestId::from(id);
            promise(conversation.begin(id.clone(), of).is_ok(), "a request does not begin")?;
            waiting.insert(id);
        }
        let deaf = RequestId::from(8);
        for line in &lines {
            match conversation.heard(line) {
                Said::Answer(id, answer) => {
                    promise(waiting.remove(&id), "an answer to nothing")?;
                    let read = read_response(line, &id).is_ok();
                    promise(read == answer.is_ok(), "an answer is read in two ways")?;
                    accepted |= read;
                }
                Said::Beside(id, _) => {
                    promise(waiting.contains(&id) && id != deaf, "somebody hears who does not listen")?;
                }
                Said::Over(id) => promise(waiting.contains(&id) && era.is_modern(), "the end of nothing")?,
                Said::Change(_) => promise(!era.is_modern(), "a change without a subscription")?,
                Said::Broken(_) => break,
                Said::Reply(_) | Said::Nothing => {}
            }
        }
        promise(conversation.under_way() == waiting.len(), "a request is lost")?;
    }
    Ok(accepted)
}
