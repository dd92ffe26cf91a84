//! The present access token, and how to get the next one.
//!
//! Asked by `caller` for each request. A token is renewed before it ends, and when the server turns it away: by the
//! refresh token, else by the person. One renewal at a time, in this process and among all of this user's (`Lock`): a
//! refresh token that is used twice ends the consent. A renewal goes on though the request that wanted it is given up,
//! and to its end though the process is to stop, as half of one loses the refresh token; only waiting for a person, for
//! others and for metadata ends at a stop. Invariants: what is new is kept before it is used, in memory where it cannot
//! be kept elsewhere; a person is not asked again right after it failed, and for more scope once (`step_up`).

mod step_up;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bailiwick_runtime::Supervisor;
use bailiwick_token::TokenHash;
use tokio::{sync::Mutex, time::timeout};
use url::Url;
use zeroize::Zeroizing;

use crate::{
    fault::Fault,
    grant::{self, Granted},
    keeping::{Keeper, Kept, file::private_folder, lock::Lock},
    possession::{Asking, Binding, Bound},
    sign_in::{Learned, Wish, introduce, person::Person, question, sign_in},
    web::Web,
};

/// A token is renewed so long before it ends, or a quarter of its life.
const MARGIN_MAX: Duration = Duration::from_secs(60);
/// How long nobody is asked again after a sign-in failed.
const QUIET: Duration = Duration::from_secs(30);
/// For a renewal that is under way when the process is to stop: one answer of a server, and keeping it.
const SETTLE_WAIT_MAX: Duration = Duration::from_secs(25);

/// A token that may be used.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) access_token: Zeroizing<String>,
    pub(crate) hash: TokenHash,
    pub(crate) bound: Bound,
    /// What it is good for, as far as anybody said.
    scope: String,
    renew_at: Instant,
    pub(crate) ends_at: Instant,
}

impl Held {
    fn new(granted: Granted, scope: String, asked_at: Instant) -> Self {
        let Granted { access_token, life, bound, .. } = granted;
        let ends_at = asked_at + life;
        let renew_at = ends_at - MARGIN_MAX.min(life / 4);
        Self { hash: TokenHash::of(&access_token), access_token, bound, scope, renew_at, ends_at }
    }
}

/// See the file's header.
#[derive(Debug)]
pub(crate) struct Credentials {
    web: Web,
    wish: Wish,
    person: Person,
    keeper: Keeper,
    /// Of locks.
    folder: PathBuf,
    supervisor: Supervisor,
    present: Mutex<Present>,
}

#[derive(Debug, Default)]
struct Present {
    held: Option<Arc<Held>>,
    /// When a person was last asked in vain, and why that was.
    failed: Option<(Instant, Fault)>,
    /// What should have been kept, and why it is not.
    unsaved: Option<(Kept, Fault)>,
    has_warned: bool,
    learned: Learned,
    was_dpop_asked_for: bool,
    /// Scopes that a person was asked for, beyond the first.
    asked_for: step_up::AskedFor,
}

/// Where a token is to come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The refresh token, else the person.
    Any,
    /// The same, if the refresh token is good for all that is wanted by now: another bridge may have seen to that.
    IfWide,
    Person,
}

impl Credentials {
    pub(crate) fn new(
        web: Web,
        wish: Wish,
        person: Person,
        keeper: Keeper,
        folder: PathBuf,
        supervisor: Supervisor,
    ) -> Arc<Self> {
        let present = Mutex::default();
        Arc::new(Self { web, wish, person, keeper, folder, supervisor, present })
    }

    /// A token that is good for a while; waits for a person where it has to.
    pub(crate) async fn token(self: &Arc<Self>) -> Result<Arc<Held>, Fault> {
        self.unlike(None).await
    }

    /// A token other than this one, which the server turned away.
    pub(crate) async fn renewed(self: &Arc<Self>, spent: &Held) -> Result<Arc<Held>, Fault> {
        self.unlike(Some(spent.hash)).await
    }

    /// A token that is bound by DPoP, as the resource takes nothing else. Where one was asked for already, or must not
    /// be, another of the same kind.
    pub(crate) async fn proven(self: &Arc<Self>, spent: &Held) -> Result<Arc<Held>, Fault> {
        if self.wish.binding == Binding::Auto && !matches!(spent.bound, Bound::Dpop(_)) {
            let mut present = self.present.lock().await;
            if !std::mem::replace(&mut present.was_dpop_asked_for, true) {
                present.learned.must_be_dpop = true;
            }
        }
        self.renewed(spent).await
    }

    /// Nothing more can be had with this token; the next request gets another, or asks the person.
    pub(crate) async fn spend(&self, spent: &Held) {
        let mut present = self.present.lock().await;
        present.held = present.held.take().filter(|held| held.hash != spent.hash);
    }

    async fn unlike(self: &Arc<Self>, spent: Option<TokenHash>) -> Result<Arc<Held>, Fault> {
        let this = Arc::clone(self);
        let renewal = async move { this.renew(spent).await };
        self.supervisor.persist("token renewal", Box::pin(renewal)).await
    }

    async fn renew(&self, spent: Option<TokenHash>) -> Result<Arc<Held>, Fault> {
        let waited = self.supervisor.shutdown().or_stop(self.present.lock()).await;
        let mut present = waited.ok_or(Fault::Stopping)?;
        let held = present.held.clone().filter(|held| Some(held.hash) != spent);
        if let Some(held) = held.clone().filter(|held| Instant::now() < held.renew_at) {
            return Ok(held);
        }
        let is_other = present.learned.must_be_dpop
            && held.as_ref().or(present.held.as_ref()).is_some_and(|held| !matches!(held.bound, Bound::Dpop(_)));
        let obtained = self.obtain(&mut present, if is_other { Source::Person } else { Source::Any }).await;
        match obtained {
            // The server gives none, so nobody is asked for one again.
            Ok(held) if is_other && !matches!(held.bound, Bound::Dpop(_)) => {
                present.learned.must_be_dpop = false;
                Ok(held)
            }
            // It cannot be had so, so what there is goes on to be renewed.
            Err(fault @ (Fault::Refused { .. } | Fault::Answer { .. })) if is_other => {
                present.learned.must_be_dpop = false;
                Err(fault)
            }
            // Still good, so a server that is away for a moment does no harm yet.
            Err(Fault::Unreachable { host }) => {
                held.filter(|held| Instant::now() < held.ends_at).ok_or(Fault::Unreachable { host })
            }
            obtained => obtained,
        }
    }

    async fn obtain(&self, present: &mut Present, from: Source) -> Result<Arc<Held>, Fault> {
        let stop = self.supervisor.shutdown();
        let _lock = Lock::take(&self.folder, self.keeper.name(), stop).await?;
        let mut kept = match &present.unsaved {
            Some((kept, _)) => kept.clone(),
            None => stop.or_stop(self.keeper.load()).await.unwrap_or(Err(Fault::Stopping))?,
        };
        let asked_at = Instant::now();
        let refreshed = match from {
            Source::Any => self.refresh(&mut kept, present).await?,
            Source::IfWide if present.learned.is_covered_by(kept.scope.as_deref()) => {
                self.refresh(&mut kept, present).await?
            }
            Source::IfWide | Source::Person => None,
        };
        let granted = match refreshed {
            Some(granted) => granted,
            None => self.ask(&mut kept, present).await?,
        };
        present.failed = None;
        if let Some(next) = &granted.refresh_token {
            kept.refresh_token = Some(next.clone());
        }
        kept.scope = granted.scope.clone().or(kept.scope);
        kept.is_bound |= !matches!(granted.bound, Bound::Nothing);
        self.keep(&kept, present).await;
        if matches!(granted.bound, Bound::Nothing) && !std::mem::replace(&mut present.has_warned, true) {
            eprintln!("warning: this server gives no bound tokens; whoever steals one can use it until it ends");
        }
        let scope = kept.scope.unwrap_or_default();
        let held = Arc::new(Held::new(granted, scope, asked_at.max(Instant::now() - MARGIN_MAX)));
        present.held = Some(Arc::clone(&held));
        Ok(held)
    }

    /// Keeps it; in memory alone where that fails, so that this process can go on and asks nobody again.
    async fn keep(&self, kept: &Kept, present: &mut Present) {
        let Err(fault) = self.keeper.save(kept).await else {
            present.unsaved = None;
            return;
        };
        if present.unsaved.is_none() {
            eprintln!("warning: {fault}; this process goes on, but whoever starts next has to sign in again");
        }
        self.keeper.discard();
        present.unsaved = Some((kept.clone(), fault));
    }

    /// By the refresh token; `None` where the person has to be asked.
    async fn refresh(&self, kept: &mut Kept, present: &mut Present) -> Result<Option<Granted>, Fault> {
        let Some(token) = kept.refresh_token.clone() else { return Ok(None) };
        let Some(endpoint) = Url::parse(&kept.token_endpoint).ok().filter(|url| self.wish.url.may_lead_to(url)) else {
            return Ok(None);
        };
        let form = [
            ("grant_type", "refresh_token"),
            ("client_id", kept.client_id.as_str()),
            ("refresh_token", token.as_str()),
            ("resource", kept.resource.as_str()),
        ];
        let asking = Asking::of(self.wish.binding, kept.dpop_key.as_ref().map(|key| key.as_str()))?;
        match grant::request(&self.web, &endpoint, &form, &asking).await {
            // What was bound once is not given without. Beside its key an earlier build kept no more.
            Ok(granted) if (kept.is_bound || kept.dpop_key.is_some()) && matches!(granted.bound, Bound::Nothing) => {
                Err(Fault::answer(&endpoint, "the token is bound no longer, and one before it was"))
            }
            Ok(granted) => self.admitted(&endpoint, granted).map(Some),
            Err(Fault::Refused { word, .. }) => {
                tracing::info!(word, "the refresh token is refused; somebody has to sign in");
                match word.as_str() {
                    "invalid_grant" => kept.refresh_token = None,
                    // The server may have forgotten a client that registered itself.
                    "invalid_client" => kept.registered = false,
                    _ => return Ok(None),
                }
                self.keep(kept, present).await;
                Ok(None)
            }
            Err(fault) => Err(fault),
        }
    }

    async fn ask(&self, kept: &mut Kept, present: &mut Present) -> Result<Granted, Fault> {
        if let Some((_, why)) = present.failed.as_ref().filter(|(when, _)| when.elapsed() < QUIET) {
            return Err(match why {
                Fault::SignInFirst { .. } => why.clone(),
                why => Fault::FailedBefore(why.to_string()),
            });
        }
        let asked = Box::pin(self.ask_person(kept, present)).await;
        match &asked {
            Ok(_) | Err(Fault::Stopping) => {}
            Err(fault) => {
                if !matches!(fault, Fault::SignInFirst { .. }) {
                    eprintln!("Signing in failed: {fault}.");
                }
                present.failed = Some((Instant::now(), fault.clone()));
            }
        }
        asked
    }

    async fn ask_person(&self, kept: &mut Kept, present: &mut Present) -> Result<Granted, Fault> {
        // Before any server hears of it.
        self.person.can_be_asked()?;
        let stop = self.supervisor.shutdown();
        let introduced = introduce(&self.web, &self.wish, &present.learned, kept, stop).await?;
        if introduced.is_new {
            self.keep(kept, present).await;
        }
        let granted = sign_in(&self.web, &self.wish, kept, &introduced, &self.person, stop).await?;
        if !matches!(granted.bound, Bound::Dpop(_)) {
            kept.dpop_key = None;
        }
        let is_unbound = matches!(granted.bound, Bound::Nothing);
        if self.wish.binding == Binding::Auto && is_unbound && introduced.can_bind() {
            let why = "it gives no bound token, and its metadata say that it can; --binding none takes one that is not";
            return Err(Fault::answer(introduced.token_endpoint(), why));
        }
        self.admitted(introduced.token_endpoint(), granted)
    }

    /// What is granted, if it is bound where it has to be.
    fn admitted(&self, endpoint: &Url, granted: Granted) -> Result<Granted, Fault> {
        if self.wish.binding.is_demanded() && matches!(granted.bound, Bound::Nothing) {
            return Err(Fault::answer(endpoint, "it gives no bound token, and --binding says that it must"));
        }
        Ok(granted)
    }

    /// Makes sure of a token, and that the next start needs not ask for one.
    pub(crate) async fn sign_in(self: &Arc<Self>) -> Result<(), Fault> {
        self.token().await?;
        self.present.lock().await.unsaved.as_ref().map_or(Ok(()), |(_, fault)| Err(fault.clone()))
    }

    /// Returns once no renewal is under way, after a stop.
    pub(crate) async fn settled(&self) {
        drop(timeout(SETTLE_WAIT_MAX, self.present.lock()).await);
    }

    /// Gives back what was granted and forgets everything. `false` if there was nothing.
    pub(crate) async fn forget(&self) -> Result<bool, Fault> {
        // In a folder that is not as it must be nobody else does anything.
        let _lock = match private_folder(&self.folder) {
            Ok(()) => Some(Lock::take(&self.folder, self.keeper.name(), self.supervisor.shutdown()).await?),
            Err(_) => None,
        };
        let kept = self.keeper.load().await;
        self.keeper.forget().await?;
        let kept = kept.map_err(|_unreadable| Fault::NotTakenBack)?;
        let endpoint = kept.revocation_endpoint.as_deref().and_then(|text| Url::parse(text).ok());
        if let (Some(token), Some(endpoint)) =
            (&kept.refresh_token, endpoint.filter(|url| self.wish.url.may_lead_to(url)))
        {
            grant::revoke(&self.web, &endpoint, &kept.client_id, token).await?;
        }
        Ok(!kept.resource.is_empty())
    }

    /// Of locks.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes what clients of the local HTTP endpoint have to show worth nothing. `false` if there is nothing.
    pub(crate) async fn spend_endpoint_secret(&self) -> Result<bool, Fault> {
        let _lock = Lock::take(&self.folder, self.keeper.name(), self.supervisor.shutdown()).await?;
        let mut kept = self.keeper.load().await?;
        let had_one = kept.endpoint_secret.take().is_some();
        if had_one {
            self.keeper.save(&kept).await?;
        }
        Ok(had_one)
    }

    /// What clients of the local HTTP endpoint have to show: made once, kept with the rest.
    pub(crate) async fn endpoint_secret(&self) -> Result<Zeroizing<String>, Fault> {
        let _lock = Lock::take(&self.folder, self.keeper.name(), self.supervisor.shutdown()).await?;
        let mut kept = self.keeper.load().await?;
        if let Some(secret) = kept.endpoint_secret {
            return Ok(secret);
        }
        let secret = question::random()?;
        kept.endpoint_secret = Some(secret.clone());
        self.keeper.save(&kept).await?;
        Ok(secret)
    }
}
