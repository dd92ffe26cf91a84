//! How the configuration came to be what it is: the deltas of recent changes, and what was in force at which revision.
//!
//! Part of the `feed`: it takes in each revision, sessions take what came after the one they have sent. Most revisions
//! change no entry (a code is redeemed, an assertion used, a checkpoint committed). Those that follow each other are
//! one step here, however many they are, and one message to a node: from where that is to where the run ends when it
//! takes its turn. Nothing waits for a run to grow. Each message is encoded once, whoever takes it.
//! Invariants: a step begins where the one before it ends; a step that changes something is never part of a run.
//! Absent: the entries themselves (`feed`), and what was taken away (`denials`).

use std::collections::VecDeque;

use bailiwick_proto::{
    config_digest::Digest,
    v1::{self, config_frame},
};

use super::wire::Frame;

/// Bytes of deltas kept.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// A delta larger than this is not sent: nodes get the snapshot, which comes in chunks they can take.
const DELTA_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The window of deltas.
#[derive(Debug)]
pub(super) struct History {
    /// Steps kept.
    kept: usize,
    steps: VecDeque<Step>,
    bytes: usize,
}

#[derive(Debug)]
struct Step {
    from: u64,
    to: u64,
    /// What is in force at `from`; in a run, at each of its revisions.
    digest_before: Digest,
    what: What,
}

#[derive(Debug)]
enum What {
    Changes(Frame),
    /// Nothing, at any revision of a run; with the last message that said so, and from where to where it leads: as a
    /// rule everybody is at the same place.
    Nothing(Option<(u64, u64, Frame)>),
}

impl History {
    /// A window of so many steps.
    pub(super) const fn keeping(kept: usize) -> Self {
        Self { kept, steps: VecDeque::new(), bytes: 0 }
    }

    /// Takes in one revision, which leads from one digest to another.
    pub(super) fn take_in(&mut self, from: u64, to: u64, changes: Vec<v1::EntryChange>, digests: [Digest; 2]) {
        let [digest_before, digest] = digests;
        if changes.is_empty() {
            match self.steps.back_mut() {
                Some(step) if step.is_run() && step.to == from => step.to = to,
                Some(_) | None => self.push(Step { from, to, digest_before, what: What::Nothing(None) }),
            }
            return;
        }
        let frame = delta(from, to, changes, &digest);
        if frame.len() > DELTA_BYTES_MAX {
            self.steps.clear();
            self.bytes = 0;
            return;
        }
        self.push(Step { from, to, digest_before, what: What::Changes(frame) });
    }

    /// What leads from `revision` to the present one, if all of it is known and what a node holds there `fits`.
    pub(super) fn since(&mut self, revision: u64, fits: impl FnOnce(&Digest) -> bool) -> Option<Vec<Frame>> {
        let first = self.position(revision)?;
        let is_fit = self.steps.get(first).is_some_and(|step| fits(&step.digest_before));
        is_fit.then(|| self.steps.iter_mut().skip(first).map(|step| step.frame(revision)).collect())
    }

    /// Whether it is known what leads on from `revision`.
    pub(super) fn leads_on_from(&self, revision: u64) -> bool {
        self.position(revision).is_some()
    }

    /// The step to take at `revision`: one that begins there, or a run that is under way there.
    fn position(&self, revision: u64) -> Option<usize> {
        let at = self.steps.partition_point(|step| step.from <= revision).checked_sub(1)?;
        let step = self.steps.get(at)?;
        (step.from == revision || (step.is_run() && revision < step.to)).then_some(at)
    }

    fn push(&mut self, step: Step) {
        self.bytes += step.bytes();
        self.steps.push_back(step);
        while self.steps.len() > self.kept || self.bytes > BYTES_MAX {
            let Some(oldest) = self.steps.pop_front() else { break };
            self.bytes -= oldest.bytes();
        }
    }
}

impl Step {
    const fn is_run(&self) -> bool {
        matches!(self.what, What::Nothing(_))
    }

    /// What counts towards the bound of bytes; of a run there is one small message at most.
    const fn bytes(&self) -> usize {
        match &self.what {
            What::Changes(frame) => frame.len(),
            What::Nothing(_) => 0,
        }
    }

    /// What a node at `revision`, or at the beginning of this step if it has yet to get there, is sent.
    fn frame(&mut self, revision: u64) -> Frame {
        let (from, to) = (self.from.max(revision), self.to);
        match &mut self.what {
            What::Changes(frame) => frame.clone(),
            What::Nothing(Some((first, last, frame))) if (*first, *last) == (from, to) => frame.clone(),
            What::Nothing(said) => {
                let frame = delta(from, to, Vec::new(), &self.digest_before);
                *said = Some((from, to, frame.clone()));
                frame
            }
        }
    }
}

fn delta(from: u64, to: u64, changes: Vec<v1::EntryChange>, digest: &Digest) -> Frame {
    Frame::encode(config_frame::Frame::Delta(v1::Delta { from, to, changes, digest: digest.to_vec() }))
}

/// What was in force at recent revisions. A run of revisions with the same digest is one entry.
#[derive(Debug)]
pub(super) struct Digests {
    /// Entries kept.
    kept: usize,
    /// First and last revision of each digest, ascending; the last is of the present one.
    spans: VecDeque<(u64, u64, Digest)>,
}

impl Digests {
    /// A window of so many digests.
    pub(super) const fn keeping(kept: usize) -> Self {
        Self { kept, spans: VecDeque::new() }
    }

    /// Takes in what is in force at the present revision.
    pub(super) fn take_in(&mut self, revision: u64, digest: Digest) {
        match self.spans.back_mut() {
            Some((_, last, same)) if *same == digest => *last = revision,
            Some(_) | None => self.spans.push_back((revision, revision, digest)),
        }
        if self.spans.len() > self.kept {
            self.spans.pop_front();
        }
    }

    /// What was in force at a revision, if that is a recent one.
    pub(super) fn at(&self, revision: u64) -> Option<Digest> {
        let at = self.spans.partition_point(|(first, ..)| *first <= revision).checked_sub(1)?;
        self.spans.get(at).filter(|(_, last, _)| revision <= *last).map(|(.., digest)| *digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: usize = 4_096;

    fn put(key: &str) -> Vec<v1::EntryChange> {
        vec![v1::EntryChange { key: key.into(), value: Some(b"1".to_vec()) }]
    }

    /// Revisions from 10 on: which of them change something.
    fn history(changing: impl IntoIterator<Item = bool>) -> History {
        let mut history = History::keeping(KEPT);
        for (at, changes) in changing.into_iter().enumerate() {
            take_in(&mut history, 10 + at as u64, changes);
        }
        history
    }

    fn take_in(history: &mut History, from: u64, changes: bool) {
        let changed = if changes { put(&format!("user/{from}")) } else { Vec::new() };
        history.take_in(from, from + 1, changed, [[0; 32]; 2]);
    }

    /// From where to where each message leads, and how much it changes.
    fn told(history: &mut History, revision: u64) -> Vec<(u64, u64, usize)> {
        let told = |frame: Frame| match frame.decode().unwrap().frame {
            Some(config_frame::Frame::Delta(delta)) => (delta.from, delta.to, delta.changes.len()),
            other => panic!("{other:?}"),
        };
        history.since(revision, |_| true).unwrap().into_iter().map(told).collect()
    }

    #[test]
    fn revisions_that_change_nothing_are_one_message_from_wherever_a_node_is() {
        let mut history = history([false; 1_000]);
        assert_eq!(told(&mut history, 10), [(10, 1_010, 0)]);
        assert_eq!(told(&mut history, 1_009), [(1_009, 1_010, 0)], "in the midst of a run");
        take_in(&mut history, 1_010, false);
        assert_eq!(told(&mut history, 1_010), [(1_010, 1_011, 0)], "who has taken all but the last");
        assert!(history.since(1_011, |_| true).is_none() && history.since(9, |_| true).is_none());
    }

    #[test]
    fn a_change_between_is_neither_lost_nor_moved() {
        let mut history = history((0..1_000).map(|at| at == 400 || at == 401 || at == 999));
        let expected = [(10, 410, 0), (410, 411, 1), (411, 412, 1), (412, 1_009, 0), (1_009, 1_010, 1)];
        assert_eq!(told(&mut history, 10), expected);
        assert_eq!(told(&mut history, 409)[..2], [(409, 410, 0), (410, 411, 1)]);
        assert_eq!(told(&mut history, 411)[..2], [(411, 412, 1), (412, 1_009, 0)]);
        take_in(&mut history, 1_010, false);
        assert_eq!(told(&mut history, 1_009), [(1_009, 1_010, 1), (1_010, 1_011, 0)]);
    }

    #[test]
    fn whoever_is_at_the_same_place_gets_the_same_bytes() {
        let mut history = history([false, true, false, false]);
        let (once, again) = (history.since(12, |_| true).unwrap(), history.since(12, |_| true).unwrap());
        assert!(once.len() == 1 && once[0].is_same(&again[0]));
        take_in(&mut history, 14, false);
        assert!(!history.since(12, |_| true).unwrap()[0].is_same(&once[0]), "the run is longer now");
    }

    #[test]
    fn a_node_in_the_midst_of_a_run_is_asked_what_it_holds_all_the_same() {
        let mut history = History::keeping(KEPT);
        history.take_in(1, 2, put("a"), [[1; 32], [2; 32]]);
        history.take_in(2, 5, Vec::new(), [[2; 32], [2; 32]]);
        history.take_in(5, 9, Vec::new(), [[2; 32], [2; 32]]);
        assert!(history.since(5, |digest| *digest == [1; 32]).is_none());
        assert_eq!(history.since(5, |digest| *digest == [2; 32]).unwrap().len(), 1);
        assert!(history.leads_on_from(1) && history.leads_on_from(8) && !history.leads_on_from(9));
    }

    #[test]
    fn a_run_counts_once_and_the_window_is_bounded() {
        let mut history = history((0..10_000).map(|at| at % 5 == 0));
        assert_eq!((history.steps.len(), told(&mut history, 10_010 - 1).len()), (4_000, 1));
        (10_010..20_000).for_each(|from| take_in(&mut history, from, from % 5 == 0));
        assert_eq!(history.steps.len(), KEPT);
        assert!(!history.leads_on_from(9_000) && history.leads_on_from(12_000));
        let large = vec![v1::EntryChange { key: "k".into(), value: Some(vec![0; DELTA_BYTES_MAX - 1_000]) }];
        (20_000..20_010).for_each(|from| history.take_in(from, from + 1, large.clone(), [[0; 32]; 2]));
        assert!(history.bytes <= BYTES_MAX && history.steps.len() == 8);
    }

    #[test]
    fn digests_are_known_over_runs_and_within_the_window() {
        let mut digests = Digests::keeping(2);
        for (revision, digest) in [(3, 1), (4, 1), (7, 1), (9, 2), (12, 3)] {
            digests.take_in(revision, [digest; 32]);
        }
        let known = |revision| digests.at(revision).map(|digest| digest[0]);
        assert_eq!([7, 9, 10, 11, 12, 13].map(known), [None, Some(2), None, None, Some(3), None]);
        digests.take_in(20, [3; 32]);
        assert_eq!(digests.at(15), Some([3; 32]), "nothing changed between");
    }
}
