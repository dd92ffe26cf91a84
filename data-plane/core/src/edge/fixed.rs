//! Arguments that a view fixes: set at each call, and never taken from a client.
//!
//! Called by `calls` once a call is permitted, before anything is recorded: the arguments that the record commits to are
//! those that are sent. A client that sends one of them itself is refused, even if it is the same value, so that nobody
//! takes for their own choice what is not. Costs nothing where a virtual server fixes nothing.
//! Deliberately absent: what clients are shown of such a tool (`catalogue::exposure`).

use bailiwick_proto::mcp::{method, ordered_members, raw_object};

use super::Call;
use crate::config::{Config, View};

/// What is fixed of the tool that is called, if anything is.
pub(super) fn view<'c>(config: &'c Config, call: &Call) -> Option<&'c View> {
    if call.method != method::TOOLS_CALL {
        return None;
    }
    let offered = config.virtual_servers.get(&call.virtual_server).filter(|offered| offered.fixes)?;
    let view = offered.tools.get(&call.name)?.view.as_deref()?;
    (!view.fixed.is_empty()).then_some(view)
}

/// Sets the arguments.
///
/// # Errors
/// The argument that the client must not send.
pub(super) fn set(view: Option<&View>, call: &mut Call) -> Result<(), String> {
    let Some(View { fixed, .. }) = view else { return Ok(()) };
    let sent = call.arguments.as_deref().and_then(ordered_members).unwrap_or_default();
    let is_fixed = |name: &str| fixed.iter().any(|(fixed, _)| fixed == name);
    if let Some((name, _)) = sent.iter().find(|(name, _)| is_fixed(name)) {
        return Err(name.clone().into_owned());
    }
    let sent = sent.iter().map(|(name, value)| (&**name, *value));
    let all = raw_object(sent.chain(fixed.iter().map(|(name, value)| (name.as_str(), &**value))));
    call.arguments = Some(all);
    Ok(())
}
