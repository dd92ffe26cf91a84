//! Watching a share: what the leader sees of the data planes, and whether the rollout goes on, waits or goes back.
//!
//! The server's `rollout` looks at all nodes every moment and hands what it saw to [`Watch::look`] with the time on its
//! monotonic clock. What is compared is what was decided since the present step came into force: by the nodes that have
//! the candidate in force, and by all others; where everybody is in the share, or the others had too few calls, by the
//! share itself before the step. Whoever takes the lead watches the step anew for the whole time, for it has seen
//! nothing of it.
//! Invariant: a rollout never goes on while a node of the share is behind or lost, or without any that has it in force.
//! Absent: carrying the verdict out.

use std::{collections::BTreeMap, time::Duration};

use super::Rollout;

/// With fewer calls on either side nothing is compared: a handful of refused ones is no sign of anything.
pub const CALLS_MIN: u64 = 50;
/// With fewer lists on either side they are not compared.
pub const LISTS_MIN: u64 = 50;
/// More than there is; a node may say what it likes, and products of three must fit.
const COUNT_MAX: u64 = 1 << 40;
/// Most nodes named in a reason.
const NAMES_MAX: usize = 5;

/// What is known of one data plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its present run.
    pub epoch: u64,
    /// To any control plane.
    pub connected: bool,
    /// The last revision it said is in force there.
    pub acknowledged: u64,
    /// It says that it cannot use this rollout's candidate.
    pub refuses: bool,
    /// What it has decided since its run began.
    pub counts: Counts,
    /// What that was when it put the candidate in force.
    pub before: Option<Counts>,
}

/// What a data plane has decided since some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls, and those that were denied.
    pub calls: Judged,
    /// Lists of tools, a thousand for each, and the thousandths of them that were left out. Who does not see a tool
    /// does not call it, so a change that hides much would show in no call.
    pub lists: Judged,
}

/// So much was judged, and so much of it denied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// All.
    pub all: u64,
    /// What was denied of it.
    pub denied: u64,
}

impl Counts {
    const fn since(self, before: Self) -> Self {
        Self { calls: self.calls.since(before.calls), lists: self.lists.since(before.lists) }
    }

    const fn and(self, other: Self) -> Self {
        Self { calls: self.calls.and(other.calls), lists: self.lists.and(other.lists) }
    }
}

impl Judged {
    const fn since(self, before: Self) -> Self {
        Self { all: self.all.saturating_sub(before.all), denied: self.denied.saturating_sub(before.denied) }
    }

    const fn and(self, other: Self) -> Self {
        Self { all: self.all.saturating_add(other.all), denied: self.denied.saturating_add(other.denied) }
    }

    /// How much of it was denied, rounded down.
    #[must_use]
    pub const fn percent(self) -> u64 {
        self.denied.saturating_mul(100) / if self.all == 0 { 1 } else { self.all }
    }

    /// Whether more of this was denied than of the other, by more than so many percentage points.
    fn is_worse(self, other: Self, points: u64) -> bool {
        let [all, denied, other_all, other_denied, points] =
            [self.all, self.denied, other.all, other.denied, points].map(|n| u128::from(n.min(COUNT_MAX)));
        // denied / all - other_denied / other_all > points / 100, without fractions.
        let (ours, theirs) = (denied * other_all * 100, other_denied * all * 100);
        ours > theirs + points * all * other_all
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet; why, as a sentence, where more than time is wanted.
    Wait(Option<String>),
    /// On to the next share, or to everybody.
    Advance(String),
    /// It counts for nobody any more.
    Back(String),
}

/// What one leader has seen of one step.
#[derive(Clone, Debug)]
pub struct Watch {
    rollout: u64,
    step: u64,
    /// When it first looked, on its monotonic clock.
    began: Duration,
    before: BTreeMap<String, Before>,
}

/// Where a node stood when the step began, or when it was first seen after that.
#[derive(Clone, Copy, Debug)]
struct Before {
    epoch: u64,
    counts: Counts,
    /// It was connected and in the share.
    takes_part: bool,
}

impl Watch {
    /// Begins to watch the present step at `now`.
    #[must_use]
    pub fn new(rollout: &Rollout, now: Duration) -> Self {
        Self { rollout: rollout.id, step: rollout.step, began: now, before: BTreeMap::new() }
    }

    /// Whether this is the watch of the rollout's present step.
    #[must_use]
    pub const fn is_of(&self, rollout: &Rollout) -> bool {
        self.rollout == rollout.id && self.step == rollout.step
    }

    /// Looks at all data planes there are at `now`.
    pub fn look(&mut self, rollout: &Rollout, seen: &BTreeMap<String, Seen>, now: Duration) -> Verdict {
        self.before.retain(|name, _| seen.contains_key(name));
        for (name, node) in seen {
            self.note(name, node, rollout);
        }
        let share: BTreeMap<&String, &Seen> = seen.iter().filter(|(name, _)| rollout.has_in_share(name)).collect();
        if let Some(reason) = refusals(rollout, &share) {
            return Verdict::Back(reason);
        }
        if let Some(reason) = self.denials(rollout, seen) {
            return Verdict::Back(reason);
        }
        let watched = Duration::from_secs(rollout.plan.watch_seconds);
        if now.saturating_sub(self.began) < watched {
            return Verdict::Wait(None);
        }
        match self.missing(rollout, &share) {
            Some(why) => Verdict::Wait(Some(why)),
            None => Verdict::Advance(format!("nothing spoke against it for {} s", watched.as_secs())),
        }
    }

    fn note(&mut self, name: &str, node: &Seen, rollout: &Rollout) {
        if *node == Seen::default() {
            // Nobody who answers knows it at this moment.
            return;
        }
        let takes_part = node.connected && rollout.has_in_share(name);
        let known = self.before.get_mut(name).filter(|before| before.epoch == node.epoch);
        if let Some(known) = known {
            known.takes_part |= takes_part;
            return;
        }
        // A run that began after the step did has decided all since.
        let is_younger = node.epoch > rollout.stepped.revision;
        let earlier = if is_younger { Counts::default() } else { node.counts };
        let takes_part = takes_part || self.before.get(name).is_some_and(|before| before.takes_part);
        self.before.insert(name.to_owned(), Before { epoch: node.epoch, counts: earlier, takes_part });
    }

    fn denials(&self, rollout: &Rollout, seen: &BTreeMap<String, Seen>) -> Option<String> {
        let (mut share, mut others, mut earlier) = (Counts::default(), Counts::default(), Counts::default());
        for (name, node) in seen {
            let Some(before) = self.before.get(name) else { continue };
            if has_in_force(rollout, name, node) {
                // Its own word is exact, and outlives leaders.
                let before = node.before.unwrap_or(before.counts);
                share = share.and(node.counts.since(before));
                earlier = earlier.and(before);
            } else {
                others = others.and(node.counts.since(before.counts));
            }
        }
        let points = rollout.plan.denials_max;
        calls_worse(share.calls, others.calls, earlier.calls, points)
            .or_else(|| lists_worse(share.lists, others.lists, earlier.lists, points))
    }

    /// What the step still lacks once it has been watched for its time.
    fn missing(&self, rollout: &Rollout, share: &BTreeMap<&String, &Seen>) -> Option<String> {
        let is_behind = |node: &Seen| node.connected && !node.refuses && node.acknowledged < rollout.stepped.revision;
        let behind = share.iter().filter(|(_, node)| is_behind(node)).map(|(name, _)| name.as_str());
        let came = |name: &str| self.before.get(name).is_some_and(|before| before.takes_part);
        let gone = share.iter().filter(|(name, node)| !node.connected && came(name)).map(|(name, _)| name.as_str());
        let (behind, gone) = (named(behind), named(gone));
        if !behind.is_empty() {
            return Some(format!("of the share these have not taken it yet: {behind}"));
        }
        if !gone.is_empty() {
            return Some(format!("of the share these had it and are gone: {gone}"));
        }
        let has_any = share.iter().any(|(name, node)| node.connected && has_in_force(rollout, name, node));
        (!has_any).then(|| "no node of the share is connected and has it in force".to_owned())
    }
}

/// Whether a node has the candidate in force.
fn has_in_force(rollout: &Rollout, name: &str, node: &Seen) -> bool {
    rollout.has_in_share(name) && !node.refuses && node.acknowledged >= rollout.stepped.revision
}

fn calls_worse(share: Judged, others: Judged, earlier: Judged, points: u64) -> Option<String> {
    let (compared, word) =
        if others.all >= CALLS_MIN { (others, "the others") } else { (earlier, "the same nodes before") };
    let is_enough = share.all >= CALLS_MIN && compared.all >= CALLS_MIN;
    (is_enough && share.is_worse(compared, points)).then(|| {
        let (here, there) = (share.percent(), compared.percent());
        format!(
            "the share denied {} of {} calls ({here} %), {word} {} of {} ({there} %): more than {points} percentage \
             points worse",
            share.denied, share.all, compared.denied, compared.all
        )
    })
}

/// How much agents see differs between them, and agents stay with their nodes; so lists have to be worse than both what
/// the others show and what the same nodes showed before, as far as either is known.
fn lists_worse(share: Judged, others: Judged, earlier: Judged, points: u64) -> Option<String> {
    let min = LISTS_MIN * 1_000;
    let known: Vec<Judged> = [others, earlier].into_iter().filter(|judged| judged.all >= min).collect();
    let is_enough = share.all >= min && !known.is_empty();
    (is_enough && known.iter().all(|compared| share.is_worse(*compared, points))).then(|| {
        let there = known.iter().map(|compared| compared.percent()).max().unwrap_or_default();
        format!(
            "in the share lists of tools leave out {} % of the tools, elsewhere or before {there} %: more than \
             {points} percentage points worse",
            share.percent()
        )
    })
}

fn refusals(rollout: &Rollout, share: &BTreeMap<&String, &Seen>) -> Option<String> {
    let refusing = share.iter().filter(|(_, node)| node.refuses).map(|(name, _)| name.as_str());
    let count = refusing.clone().count() as u64;
    let max = rollout.plan.refusals_max;
    (count > max).then(|| format!("{count} of the share cannot use it, more than {max}: {}", named(refusing)))
}

fn named<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let mut shown = names.iter().take(NAMES_MAX).copied().collect::<Vec<_>>().join(", ");
    if names.len() > NAMES_MAX {
        shown.push_str(&format!(" and {} more", names.len() - NAMES_MAX));
    }
    shown
}

#[cfg(test)]
mod tests;
