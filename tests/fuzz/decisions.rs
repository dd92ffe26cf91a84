//! What the server's SCIM says of decisions, of which there are none here: it is compiled in for what reads bytes.

#[expect(dead_code, reason = "nobody decides here")]
pub(crate) enum Undecided {
    Refused(String),
    Unavailable,
}
