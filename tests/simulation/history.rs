//! What clients asked and were told, in the order of one clock, and whether a correct cluster could have said so.
//!
//! Registers are addressed by name; their values are texts that are never written twice. At the end every register's
//! operations go through the check of `linearizability`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use crate::{
    linearizability::{self, Action, Operation, Value, Verdict},
    world::{World, lock},
};

/// All operations of one simulation.
#[derive(Debug)]
pub(crate) struct History {
    world: Arc<World>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    clock: u64,
    values: BTreeMap<String, Value>,
    registers: BTreeMap<String, Vec<Recorded>>,
}

#[derive(Clone, Debug)]
struct Recorded {
    operation: Operation,
    /// Known to have had no effect, or to have told nothing.
    void: bool,
    note: String,
}

/// An operation under way.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    register: String,
    index: usize,
}

impl History {
    pub(crate) fn new(world: &Arc<World>) -> Arc<Self> {
        Arc::new(Self { world: world.clone(), inner: Mutex::default() })
    }

    /// The number that stands for a text; 0 for the empty one.
    pub(crate) fn value(&self, text: &str) -> Value {
        if text.is_empty() {
            return 0;
        }
        let mut inner = lock(&self.inner);
        let next = inner.values.len() as Value + 1;
        *inner.values.entry(text.to_owned()).or_insert(next)
    }

    /// A client asks.
    pub(crate) fn begin(&self, register: &str, action: Action, note: &str) -> Ticket {
        self.world.trace(format_args!("{note} asks {register} {action:?}"));
        let mut inner = lock(&self.inner);
        inner.clock += 1;
        let operation = Operation { began: inner.clock, ended: None, action };
        let operations = inner.registers.entry(register.to_owned()).or_default();
        operations.push(Recorded { operation, void: false, note: note.to_owned() });
        Ticket { register: register.to_owned(), index: operations.len() - 1 }
    }

    /// It was told that this happened.
    pub(crate) fn end(&self, ticket: &Ticket, action: Action) {
        self.change(ticket, &format!("told {action:?}"), |recorded, clock| {
            recorded.operation.action = action;
            recorded.operation.ended = Some(clock);
        });
    }

    /// It was told that nothing happened, or it only asked and was told nothing.
    pub(crate) fn cancel(&self, ticket: &Ticket) {
        self.change(ticket, "told that nothing happened", |recorded, _| recorded.void = true);
    }

    /// It gave up without knowing.
    pub(crate) fn unknown(&self, ticket: &Ticket) {
        self.change(ticket, "never told", |_, _| {});
    }

    fn change(&self, ticket: &Ticket, what: &str, change: impl FnOnce(&mut Recorded, u64)) {
        let mut inner = lock(&self.inner);
        inner.clock += 1;
        let clock = inner.clock;
        let operations = inner.registers.get_mut(&ticket.register);
        let Some(recorded) = operations.and_then(|operations| operations.get_mut(ticket.index)) else { return };
        change(recorded, clock);
        let note = recorded.note.clone();
        drop(inner);
        self.world.trace(format_args!("{note} {what}"));
    }

    /// Checks every register. Returns how many operations there were, and how many with a known outcome.
    pub(crate) fn check(&self) -> (usize, usize) {
        let registers = lock(&self.inner).registers.clone();
        let (mut all, mut known) = (0, 0);
        for (register, recorded) in registers {
            let recorded: Vec<Recorded> = recorded.into_iter().filter(|recorded| !recorded.void).collect();
            let operations: Vec<Operation> = recorded.iter().map(|recorded| recorded.operation).collect();
            all += operations.len();
            known += operations.iter().filter(|operation| operation.ended.is_some()).count();
            match linearizability::check(&operations) {
                Verdict::Linearizable => {}
                Verdict::Undecided => self.world.trace(format_args!("register {register}: undecided")),
                Verdict::Violated { at } => {
                    let last = recorded.iter().find(|recorded| recorded.operation.ended == Some(at));
                    let last =
                        last.map_or_else(String::new, |last| format!("{} {:?}", last.note, last.operation.action));
                    let detail = format!("register {register}: the answer to {last} fits no order");
                    self.world.violate("not linearizable", detail);
                }
            }
        }
        (all, known)
    }
}
