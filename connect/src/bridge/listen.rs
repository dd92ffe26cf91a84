//! Modern listening: one long request, which goes on across the ends of tokens and connections.
//!
//! Called by `exchange` for `subscriptions/listen`. To the client it is one stream: where it breaks, or ends because
//! the token does, it is asked for again, and what was listened to counts as changed, as something may have been
//! missed. Any other end is the client's to know. Specification: MCP 2026-07-28, `subscriptions/listen`.

use std::time::{Duration, Instant};

use bailiwick_proto::mcp::RequestId;
use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    Bridge,
    envelope::Envelope,
    exchange::{Told, is_stream, told},
    stream::Pauses,
};
use crate::{caller::Answered, credentials::Held, fault::Fault, sse::Events, web};

const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";
/// A stream ends so long before or after its token.
const TOKEN_END: Duration = Duration::from_secs(10);
/// Attempts in a row that bring no stream.
const ATTEMPTS_MAX: usize = 10;

/// How a stream went.
enum End {
    /// The client has got the last word.
    Told,
    /// Listen again.
    Again,
}

impl Bridge {
    pub(super) async fn listen(&self, id: &RequestId, text: Bytes, envelope: &Envelope) -> Result<(), Fault> {
        let mut pauses = Pauses::new();
        let mut is_again = false;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let heard = match self.post(text.clone(), envelope).await {
                Ok(answered) if is_stream(&answered.response) => {
                    (attempts, is_again) = (0, std::mem::replace(&mut is_again, true));
                    pauses.well();
                    self.hear(id, answered, is_again).await
                }
                Ok(answered) if !is_again || !answered.response.status().is_server_error() => {
                    let answer = self.receive(id, answered, false).await?;
                    self.out.say(&answer).await;
                    return Ok(());
                }
                Ok(_) => Ok(End::Again),
                Err(fault) if !is_again => return Err(fault),
                Err(fault) => Err(fault),
            };
            match heard {
                Ok(End::Told) => return Ok(()),
                Err(fault) if attempts >= ATTEMPTS_MAX || !matches!(fault, Fault::Unreachable { .. }) => {
                    return Err(fault);
                }
                Ok(End::Again) | Err(_) => is_again = true,
            }
            tokio::time::sleep(pauses.next()).await;
        }
    }

    async fn hear(&self, id: &RequestId, answered: Answered, is_again: bool) -> Result<End, Fault> {
        let Answered { mut response, held } = answered;
        let url = self.caller.url.url();
        let mut events = Events::default();
        while let Some(chunk) = web::chunk(url, &mut response).await? {
            let read = events.feed(&chunk).map_err(|_| Fault::answer(url, "an event is too large"))?;
            for data in read.into_iter().filter(|data| !data.trim_ascii().is_empty()) {
                if told(id, &data) == Told::Answer {
                    if ends_with_token(&held) && is_result(&data) {
                        return Ok(End::Again);
                    }
                    self.out.say(&data).await;
                    return Ok(End::Told);
                }
                match missed(&data).filter(|_| is_again) {
                    Some(missed) => self.say_all(missed).await,
                    None => self.out.say(&data).await,
                }
            }
        }
        Ok(End::Again)
    }

    async fn say_all(&self, messages: Vec<Value>) {
        for message in messages {
            self.out.say(message.to_string().as_bytes()).await;
        }
    }
}

fn ends_with_token(held: &Held) -> bool {
    Instant::now() + TOKEN_END >= held.ends_at
}

fn is_result(message: &[u8]) -> bool {
    serde_json::from_slice::<Value>(message).is_ok_and(|message| message.get("result").is_some())
}

/// Of the acknowledgement of a stream that goes on: what may have changed meanwhile. `None` for anything else.
fn missed(message: &[u8]) -> Option<Vec<Value>> {
    let message: Value = serde_json::from_slice(message).ok()?;
    (message.get("method")?.as_str()? == ACKNOWLEDGED).then_some(())?;
    let params = message.get("params")?;
    let honoured = params.get("notifications")?;
    let meta = params.get("_meta");
    let notification = |method: &str, uri: Option<&Value>| {
        let mut params = serde_json::Map::new();
        params.extend(meta.map(|meta| ("_meta".to_owned(), meta.clone())));
        params.extend(uri.map(|uri| ("uri".to_owned(), uri.clone())));
        json!({"jsonrpc": "2.0", "method": method, "params": params})
    };
    let lists = [
        ("toolsListChanged", "notifications/tools/list_changed"),
        ("promptsListChanged", "notifications/prompts/list_changed"),
        ("resourcesListChanged", "notifications/resources/list_changed"),
    ];
    let lists = lists.iter().filter(|(kind, _)| honoured.get(*kind) == Some(&Value::Bool(true)));
    let resources = honoured.get("resourceSubscriptions").and_then(Value::as_array).into_iter().flatten();
    let lists = lists.map(|(_, method)| notification(method, None));
    Some(lists.chain(resources.map(|uri| notification("notifications/resources/updated", Some(uri)))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_listened_to_counts_as_changed_after_a_gap() {
        let meta = json!({"io.modelcontextprotocol/subscriptionId": 4});
        let acknowledged = json!({"jsonrpc": "2.0", "method": ACKNOWLEDGED, "params": {"_meta": meta, "notifications": {
            "toolsListChanged": true, "promptsListChanged": false, "resourceSubscriptions": ["file:///a"],
        }}});
        let updated = json!({"_meta": meta, "uri": "file:///a"});
        let missed = missed(acknowledged.to_string().as_bytes()).unwrap();
        assert_eq!(
            missed,
            [
                json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": {"_meta": meta}}),
                json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": updated}),
            ]
        );
        assert_eq!(super::missed(br#"{"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#), None);
    }
}
