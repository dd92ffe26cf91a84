//! Places of which there are so many in all, and so many for each origin.
//!
//! Taken by `connections` for each connection and by `oauth::limits` for each request worked on; given back when the
//! [`Share`] is dropped, however that comes. Memory: one entry for each origin that has a place.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::address::Origin;

/// All places of one kind.
#[derive(Debug)]
pub(crate) struct Shares {
    in_all_max: usize,
    each_max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    in_all: usize,
    by_origin: HashMap<Origin, usize>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// The origin has its share.
    OfOrigin,
    /// None is left for anybody.
    InAll,
}

/// A place that is taken.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Arc<Shares>,
    origin: Option<Origin>,
}

impl Shares {
    pub(crate) fn new(in_all_max: usize, each_max: usize) -> Arc<Self> {
        Arc::new(Self { in_all_max, each_max, taken: Mutex::default() })
    }

    /// Takes a place. Without an origin it counts in all only.
    ///
    /// # Errors
    /// [`Full`].
    pub(crate) fn take(self: &Arc<Self>, origin: Option<Origin>) -> Result<Share, Full> {
        let mut taken = self.taken();
        let of_origin = origin.and_then(|origin| taken.by_origin.get(&origin).copied()).unwrap_or(0);
        if origin.is_some() && of_origin >= self.each_max {
            return Err(Full::OfOrigin);
        }
        if taken.in_all >= self.in_all_max {
            return Err(Full::InAll);
        }
        if let Some(origin) = origin {
            taken.by_origin.insert(origin, of_origin + 1);
        }
        taken.in_all += 1;
        Ok(Share { shares: Arc::clone(self), origin })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.taken();
        taken.in_all = taken.in_all.saturating_sub(1);
        let Some(origin) = self.origin else { return };
        match taken.by_origin.get_mut(&origin) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.by_origin.remove(&origin)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn origin(number: u32) -> Option<Origin> {
        Some(Origin::of(Ipv4Addr::from_bits(number).into()))
    }

    #[test]
    fn one_origin_leaves_room_for_others_and_what_is_given_back_can_be_taken_again() {
        let shares = Shares::new(5, 2);
        let greedy = [(); 2].map(|()| shares.take(origin(1)).unwrap());
        assert_eq!(shares.take(origin(1)).unwrap_err(), Full::OfOrigin);
        let others = [2, 3].map(|number| shares.take(origin(number)).unwrap());
        let without = shares.take(None).unwrap();
        assert_eq!(shares.take(origin(4)).unwrap_err(), Full::InAll);
        assert_eq!(shares.take(None).unwrap_err(), Full::InAll);
        drop(greedy);
        let again = shares.take(origin(1)).unwrap();
        drop((others, without, again));
        let taken = shares.taken();
        assert_eq!((taken.in_all, taken.by_origin.len()), (0, 0), "nothing stays of who has left");
    }
}
