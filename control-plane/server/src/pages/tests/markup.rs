//! Takes a page of ours apart, strictly: quoted attributes, every element closed. What does not fit fails the test.

/// Elements without an end.
const VOID: [&str; 4] = ["meta", "link", "input", "path"];

/// One element as it begins.
#[derive(Debug)]
pub(super) struct Tag {
    pub(super) name: String,
    /// In order; an attribute without a value has an empty one.
    pub(super) attributes: Vec<(String, String)>,
    parents: Vec<String>,
    text: String,
}

impl Tag {
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn is(&self, name: &str, value: &str) -> bool {
        self.value(name) == Some(value)
    }

    pub(super) fn within(&self, parent: &str) -> bool {
        self.parents.iter().any(|known| known == parent)
    }

    /// Something to fill in.
    pub(super) fn is_field(&self) -> bool {
        self.name == "select" || (self.name == "input" && !self.is("type", "hidden"))
    }

    /// What is read inside of it; of a field, what its label says.
    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

/// All elements in order.
pub(super) fn tags(html: &str) -> Vec<Tag> {
    let mut rest = html.trim_start().strip_prefix("<!doctype html>").unwrap();
    let (mut tags, mut open) = (Vec::<Tag>::new(), Vec::<usize>::new());
    while let Some(at) = rest.find('<') {
        let (text, tag) = rest.split_at(at);
        read(&mut tags, &open, text);
        let (inside, after) = until_end(tag.strip_prefix('<').unwrap());
        rest = after;
        if let Some(name) = inside.strip_prefix('/') {
            let closed = open.pop().unwrap_or_else(|| panic!("</{name}> closes nothing"));
            assert_eq!(tags[closed].name, name);
            continue;
        }
        let tag = begin(inside.trim_end_matches('/'), open.iter().map(|open| tags[*open].name.clone()).collect());
        if !VOID.contains(&tag.name.as_str()) {
            open.push(tags.len());
        }
        tags.push(tag);
    }
    assert!(open.is_empty(), "not closed: {:?}", open.iter().map(|open| &tags[*open].name).collect::<Vec<_>>());
    label_fields(&mut tags);
    tags
}

/// A tag up to its end, which is no `>` in quotes.
fn until_end(text: &str) -> (&str, &str) {
    let mut quoted = false;
    let end = text.find(|c| {
        quoted ^= c == '"';
        c == '>' && !quoted
    });
    let end = end.unwrap_or_else(|| panic!("no end: {text}"));
    let (inside, rest) = text.split_at(end);
    (inside, rest.strip_prefix('>').unwrap())
}

fn begin(inside: &str, parents: Vec<String>) -> Tag {
    let (name, mut rest) = inside.split_once(' ').unwrap_or((inside, ""));
    let mut attributes = Vec::new();
    while !rest.trim_start().is_empty() {
        rest = rest.trim_start();
        let end = rest.find(['=', ' ']).unwrap_or(rest.len());
        let (name, mut value) = (rest.split_at(end).0, "");
        rest = rest.split_at(end).1;
        if let Some(quoted) = rest.strip_prefix("=\"") {
            (value, rest) = quoted.split_once('"').unwrap();
        } else {
            assert!(!rest.starts_with('='), "not quoted: {inside}");
        }
        attributes.push((name.to_owned(), unescaped(value)));
    }
    Tag { name: name.to_owned(), attributes, parents, text: String::new() }
}

fn read(tags: &mut [Tag], open: &[usize], text: &str) {
    let text = unescaped(text);
    for tag in open {
        tags[*tag].text.push_str(text.trim());
    }
}

/// Fields say what their labels say: the label around one, or the one that names it.
fn label_fields(tags: &mut [Tag]) {
    for at in 0..tags.len() {
        if !tags[at].is_field() {
            continue;
        }
        let id = tags[at].value("id").map(str::to_owned);
        let named = id.and_then(|id| tags.iter().find(|tag| tag.is("for", &id)));
        let around = tags[..at].iter().rev().find(|tag| tag.name == "label");
        tags[at].text = named.or(around).map(|label| label.text.clone()).unwrap_or_default();
    }
}

fn unescaped(text: &str) -> String {
    let characters = [("&#60;", "<"), ("&#62;", ">"), ("&#34;", "\""), ("&#39;", "'"), ("&#38;", "&")];
    characters.iter().fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}
