//! The present access token, and how to get the next one.
//!
//! Asked by `caller` for each request. A token is renewed before it ends, and when the server turns it away: by the
//! refresh token, else by the person. One renewal at a time, in this process and among all of this user's (`Lock`): a
//! refresh token that is used twice ends the consent. A renewal goes on though the request that wanted it is given up,
//! and to its end though the process is to stop, as half of one loses the refresh token; only waiting for a person, for
//! others and for metadata ends at a stop. Invariants: what is new is kept before it is used, in memory where it cannot
//! be kept elsewhere; a person is not asked again right after it failed.

#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bailiwick_runtime::Supervisor;
use bailiwick_token::{TokenHash, binding::BindingKey};
use tokio::{sync::Mutex, time::timeout};
use url::Url;
use zeroize::Zeroizing;

use crate::{
    fault::Fault,
    grant::{self, Granted},
    keeping::{Keeper, Kept, lock::Lock},
    sign_in::{Wish, introduce, person::Person, question, sign_in},
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
    pub(crate) binding: Option<BindingKey>,
    renew_at: Instant,
    pub(crate) ends_at: Instant,
}

impl Held {
    fn new(granted: Granted, asked_at: Instant) -> Self {
        let Granted { access_token, life, binding, .. } = granted;
        let ends_at = asked_at + life;
        let renew_at = ends_at - MARGIN_MAX.min(life / 4);
        Self { hash: TokenHash::of(&access_token), access_token, binding, renew_at, ends_at }
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
        match self.obtain(&mut present).await {
            // Still good, so a server that is away for a moment does no harm yet.
            Err(Fault::Unreachable { host }) => {
                held.filter(|held| Instant::now() < held.ends_at).ok_or(Fault::Unreachable { host })
            }
            obtained => obtained,
        }
    }

    async fn obtain(&self, present: &mut Present) -> Result<Arc<Held>, Fault> {
        let stop = self.supervisor.shutdown();
        let _lock = Lock::take(&self.folder, self.keeper.name(), stop).await?;
        let mut kept = match &present.unsaved {
            Some((kept, _)) => kept.clone(),
            None => stop.or_stop(self.keeper.load()).await.unwrap_or(Err(Fault::Stopping))?,
        };
        let asked_at = Instant::now();
        let granted = match self.refresh(&mut kept, present).await? {
            Some(granted) => granted,
            None => self.ask(&mut kept, present).await?,
        };
        present.failed = None;
        if let Some(next) = &granted.refresh_token {
            kept.refresh_token = Some(next.clone());
        }
        self.keep(&kept, present).await;
        if granted.binding.is_none() && !present.has_warned {
            present.has_warned = true;
            eprintln!("warning: this server gives no bound tokens; whoever steals one can use it until it ends");
        }
        let held = Arc::new(Held::new(granted, asked_at.max(Instant::now() - MARGIN_MAX)));
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
            ("resource", self.wish.url.resource()),
        ];
        match grant::request(&self.web, &endpoint, &form).await {
            Ok(granted) => Ok(Some(granted)),
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
        let introduced = introduce(&self.web, &self.wish, kept, stop).await?;
        if introduced.is_new {
            self.keep(kept, present).await;
        }
        sign_in(&self.web, &self.wish, kept, &introduced, &self.person, stop).await
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
        let _lock = Lock::take(&self.folder, self.keeper.name(), self.supervisor.shutdown()).await?;
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
