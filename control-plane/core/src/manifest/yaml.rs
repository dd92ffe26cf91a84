//! YAML text to trees of JSON values that know the line of every key.
//!
//! Files are divided at `---` first, so a syntax error in one document hides nothing in the others. Only what
//! manifests need is accepted: mappings with unique text keys, sequences and scalars of the core schema; no anchors,
//! aliases or tags, so no value can be larger than its text. Nesting is bounded, as reading recurses.
//! Called by `manifest::parse`; hands its documents to `document`. Absent: what keys mean.

use saphyr::Scalar;
use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};
use serde_json::{Map, Number, Value};

use super::Source;
use crate::problem::{PROBLEMS_MAX, Problem};

/// Deepest nesting: manifests need five levels.
pub(super) const DEPTH_MAX: usize = 16;

/// A document: its value, and where everything in it was written.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) value: Value,
    pub(super) source: Source,
}

/// The documents of a file, each read or with everything found wrong with its YAML; empty ones are left out.
pub(super) fn read(file: &str, text: &str) -> Vec<Result<Document, Vec<Problem>>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    divide(text)
        .into_iter()
        .flat_map(|(lines_before, part)| Reader::new(file, lines_before, part).documents())
        .collect()
}

/// The parts of a text that start at `---`, each with the number of lines before it.
fn divide(text: &str) -> Vec<(u32, &str)> {
    let is_marker = |line: &str| {
        line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
    };
    let mut parts = Vec::new();
    let (mut start, mut lines_before) = (0, 0);
    let (mut at, mut line_number) = (0, 0);
    for line in text.split_inclusive('\n') {
        if is_marker(line) && at > start {
            parts.extend(text.get(start..at).map(|part| (lines_before, part)));
            (start, lines_before) = (at, line_number);
        }
        at += line.len();
        line_number += 1;
    }
    parts.extend(text.get(start..).map(|part| (lines_before, part)));
    parts
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    lines_before: u32,
    source: Source,
    file: &'a str,
    problems: Vec<Problem>,
}

/// The parser cannot go on in this part.
struct Stopped;

impl<'a> Reader<'a> {
    fn new(file: &'a str, lines_before: u32, part: &'a str) -> Self {
        let parser = Parser::new_from_str(part);
        Self { parser, lines_before, source: Source::default(), file, problems: Vec::new() }
    }

    fn documents(mut self) -> Vec<Result<Document, Vec<Problem>>> {
        let mut documents = Vec::new();
        loop {
            self.source = Source { file: self.file.to_owned(), ..Source::default() };
            match self.document() {
                Ok(None) => return documents,
                // Nothing but comments, or an explicit null.
                Ok(Some(Value::Null)) if self.problems.is_empty() => {}
                Ok(Some(value)) if self.problems.is_empty() => {
                    documents.push(Ok(Document { value, source: std::mem::take(&mut self.source) }));
                }
                Ok(Some(_)) => documents.push(Err(std::mem::take(&mut self.problems))),
                Err(Stopped) => {
                    documents.push(Err(std::mem::take(&mut self.problems)));
                    return documents;
                }
            }
        }
    }

    /// The next document's value; `None` at the end.
    fn document(&mut self) -> Result<Option<Value>, Stopped> {
        loop {
            let (event, span) = self.next("")?;
            match event {
                Event::StreamEnd => return Ok(None),
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                Event::Alias(_)
                | Event::Scalar(..)
                | Event::SequenceStart(..)
                | Event::MappingStart(..)
                | Event::SequenceEnd
                | Event::MappingEnd => {
                    self.source.line = self.line(span);
                    return self.node(event, span, "", 0).map(Some);
                }
            }
        }
    }

    fn next(&mut self, path: &str) -> Result<(Event<'a>, Span), Stopped> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => {
                let line = self.at(error.marker().line());
                self.report(line, path, format!("not YAML: {}", error.info()));
                Err(Stopped)
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, path: &str, depth: usize) -> Result<Value, Stopped> {
        let line = self.line(span);
        if depth > DEPTH_MAX {
            self.report(line, path, format!("nested deeper than {DEPTH_MAX} levels"));
            return Err(Stopped);
        }
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_extras(line, path, anchor, tag.is_some());
                if style == ScalarStyle::Literal {
                    let first = self.first_line_of_block(span, &text);
                    self.source.blocks.insert(path.to_owned(), first);
                }
                Ok(scalar(Scalar::parse_from_cow_and_metadata(text, style, None)))
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_extras(line, path, anchor, tag.is_some());
                self.sequence(path, depth)
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_extras(line, path, anchor, tag.is_some());
                self.mapping(path, depth)
            }
            Event::Alias(_) => {
                self.report(line, path, "aliases are not accepted; write the value out");
                Ok(Value::Null)
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => {
                self.report(line, path, "not YAML: the text ends too early");
                Err(Stopped)
            }
        }
    }

    fn sequence(&mut self, path: &str, depth: usize) -> Result<Value, Stopped> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next(path)?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Value::Array(items));
            }
            let path = format!("{path}[{}]", items.len());
            let line = self.line(span);
            self.source.lines.insert(path.clone(), line);
            items.push(self.node(event, span, &path, depth + 1)?);
        }
    }

    fn mapping(&mut self, path: &str, depth: usize) -> Result<Value, Stopped> {
        let mut fields = Map::new();
        loop {
            let (event, span) = self.next(path)?;
            let line = self.line(span);
            let key = match event {
                Event::MappingEnd => return Ok(Value::Object(fields)),
                Event::Scalar(key, style, anchor, tag) => {
                    self.refuse_extras(line, path, anchor, tag.is_some());
                    if key.is_empty() && style == ScalarStyle::Plain {
                        self.report(line, path, "a key is missing before \":\"");
                    }
                    key.into_owned()
                }
                other => {
                    self.report(line, path, "a key must be a text");
                    self.node(other, span, path, depth + 1)?;
                    String::new()
                }
            };
            let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            if fields.contains_key(&key) {
                let first = self.source.lines.get(&below).copied().unwrap_or_default();
                self.report(line, &below, format!("given twice; first in line {first}"));
            } else {
                self.source.lines.insert(below.clone(), line);
            }
            let (event, span) = self.next(&below)?;
            let value = self.node(event, span, &below, depth + 1)?;
            fields.insert(key, value);
        }
    }

    fn refuse_extras(&mut self, line: u32, path: &str, anchor: usize, is_tagged: bool) {
        if anchor != 0 {
            self.report(line, path, "anchors are not accepted; write the value out");
        }
        if is_tagged {
            self.report(line, path, "tags are not accepted; put texts in quotes");
        }
    }

    fn report(&mut self, line: u32, path: &str, message: impl Into<String>) {
        if self.problems.len() < PROBLEMS_MAX {
            let (file, key) = (self.file.to_owned(), path.to_owned());
            self.problems.push(Problem { file, line, key, message: message.into() });
        }
    }

    fn line(&self, span: Span) -> u32 {
        self.at(span.start.line())
    }

    fn at(&self, line: usize) -> u32 {
        self.lines_before.saturating_add(u32::try_from(line).unwrap_or(u32::MAX))
    }

    /// The line on which a block's text starts; the parser marks the first line that is not empty.
    fn first_line_of_block(&self, span: Span, text: &str) -> u32 {
        let empty_lines = text.bytes().take_while(|byte| *byte == b'\n').count();
        self.line(span).saturating_sub(u32::try_from(empty_lines).unwrap_or(u32::MAX))
    }
}

fn scalar(scalar: Option<Scalar<'_>>) -> Value {
    match scalar {
        None | Some(Scalar::Null) => Value::Null,
        Some(Scalar::Boolean(value)) => Value::Bool(value),
        Some(Scalar::Integer(value)) => Value::Number(value.into()),
        // What is no finite number is shown as text, which is the wrong type wherever a number would do.
        Some(Scalar::FloatingPoint(value)) => {
            Number::from_f64(value.into_inner()).map_or_else(|| Value::String(value.to_string()), Value::Number)
        }
        Some(Scalar::String(text)) => Value::String(text.into_owned()),
    }
}
