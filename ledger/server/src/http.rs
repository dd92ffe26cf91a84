//! What the ledger shows over HTTP: checkpoint and tiles as C2SP tlog-tiles says, searches, events, proofs, status.
//!
//! Everything is read-only and bounded: parameters are read strictly (`params`), pages have a size, a search does
//! a limited amount of work, and only so many requests read the database at once. Tiles, proofs and the checkpoint
//! show what is published; searches and events also show what is stored and not yet published.
//!
//! Absent: authentication (the listener is for loopback until mTLS comes), writing of any kind.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bailiwick_ledger_core::{
    chain::{ChainCursor, MissingRange},
    decimal, hash,
    tile::{TILE_WIDTH, TilePath},
    tree,
};
use bailiwick_runtime::Shutdown;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time::timeout,
};

use self::reply::{ApiError, items, ndjson};
use crate::{
    checkpoints::Published,
    identity::Identity,
    store::{SharedStore, Store, StoreError},
};

mod params;
mod reply;

/// Requests that read the database at once; more would only queue inside it.
const READERS_MAX: usize = 32;
/// Longest wait for a turn to read.
const TURN_WAIT_MAX: Duration = Duration::from_secs(5);
/// Connections still open this long after shutdown was requested are dropped.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Chains in `/v1/status`: those that moved last.
const STATUS_CHAINS_MAX: usize = 1000;

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// Partial tiles never change either, but are superseded within seconds.
const SHORT: HeaderValue = HeaderValue::from_static("public, max-age=60");
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");

type Pairs = Query<Vec<(String, String)>>;
type Answer = Result<Response, ApiError>;

/// What handlers read from; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    store: SharedStore,
    identity: Arc<Identity>,
    size: watch::Receiver<u64>,
    published: watch::Receiver<Option<Arc<Published>>>,
    shutdown: Shutdown,
    turns: Arc<Semaphore>,
}

impl Api {
    pub(crate) fn new(
        store: SharedStore,
        identity: Arc<Identity>,
        size: watch::Receiver<u64>,
        published: watch::Receiver<Option<Arc<Published>>>,
        shutdown: Shutdown,
    ) -> Self {
        Self { store, identity, size, published, shutdown, turns: Arc::new(Semaphore::new(READERS_MAX)) }
    }

    /// Serves until shutdown is requested and open requests are answered, or cut off after a while.
    pub(crate) async fn serve(self, listener: TcpListener) -> std::io::Result<()> {
        let (stop, late) = (self.shutdown.clone(), self.shutdown.clone());
        let served = axum::serve(listener, self.router());
        let served = served.with_graceful_shutdown(async move { stop.requested().await });
        tokio::select! {
            outcome = served => outcome,
            () = async { late.requested().await; tokio::time::sleep(DRAIN_MAX).await } => Ok(()),
        }
    }

    fn router(self) -> Router {
        Router::new()
            .route("/checkpoint", get(checkpoint))
            .route("/tile/{*path}", get(tile))
            .route("/v1/records", get(records))
            .route("/v1/events", get(events))
            .route("/v1/proof/{index}", get(proof))
            .route("/v1/key", get(key))
            .route("/v1/status", get(status))
            .fallback(|| async { ApiError::NotFound { what: "page" } })
            .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
            .with_state(self)
    }

    fn published(&self) -> Result<Arc<Published>, ApiError> {
        self.published.borrow().clone().ok_or(ApiError::NothingPublished)
    }

    async fn read<T, F>(&self, work: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    {
        let turn = timeout(TURN_WAIT_MAX, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(ApiError::Busy) };
        Ok(self.store.run(work).await?)
    }
}

async fn checkpoint(State(api): State<Api>, Query(pairs): Pairs) -> Answer {
    params::none(pairs)?;
    let note = api.published()?.note.clone();
    Ok(([(header::CONTENT_TYPE, TEXT), (header::CACHE_CONTROL, NO_CACHE)], note).into_response())
}

async fn key(State(api): State<Api>, Query(pairs): Pairs) -> Answer {
    params::none(pairs)?;
    Ok(([(header::CONTENT_TYPE, TEXT)], format!("{}\n", api.identity.verifier)).into_response())
}

async fn tile(State(api): State<Api>, Path(path): Path<String>, Query(pairs): Pairs) -> Answer {
    params::none(pairs)?;
    let missing = ApiError::NotFound { what: "tile" };
    let path = TilePath::parse(&format!("tile/{path}")).ok_or(missing)?;
    let size = api.published()?.size;
    let caching = if path.width == TILE_WIDTH { IMMUTABLE } else { SHORT };
    let bytes = api.read(move |store| store.tile(path, size)).await?.ok_or(ApiError::NotFound { what: "tile" })?;
    Ok(([(header::CONTENT_TYPE, OCTETS), (header::CACHE_CONTROL, caching)], bytes).into_response())
}

async fn records(State(api): State<Api>, Query(pairs): Pairs) -> Answer {
    let search = params::search(pairs, now_us())?;
    let page = api.read(move |store| store.search(&search.filter, search.before, search.limit)).await?;
    Ok(items(page.items, page.next))
}

async fn events(State(api): State<Api>, Query(pairs): Pairs, headers: HeaderMap) -> Answer {
    let wanted = params::events(pairs)?;
    let mut size = api.size.clone();
    let news = async { size.wait_for(|size| *size > wanted.from).await.map(drop) };
    // Whether news came, the wait ran out or the ledger stops: the answer is what there is.
    let _waited = api.shutdown.or_stop(timeout(Duration::from_secs(wanted.wait_seconds), news)).await;
    let found = api.read(move |store| store.ascending(wanted.from, wanted.limit)).await?;
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    Ok(if accept.contains("ndjson") { ndjson(found) } else { items(found, None) })
}

async fn proof(State(api): State<Api>, Path(index): Path<String>, Query(pairs): Pairs) -> Answer {
    params::none(pairs)?;
    let index = decimal::parse(&index).ok_or(ApiError::NotFound { what: "leaf" })?;
    let published = api.published()?;
    let size = published.size;
    if index >= size {
        return Err(ApiError::NotPublished { size });
    }
    let (leaf, proof, root) = api
        .read(move |store| {
            let missing = StoreError::Damaged { what: "leaf", at: index };
            let leaf = store.leaf(index)?.ok_or(missing)?;
            Ok((leaf, tree::inclusion_proof(store, index, size)?, tree::root(store, size)?))
        })
        .await?;
    Ok(axum::Json(json!({
        "index": index.to_string(),
        "leaf_hash": hash::to_hex(&tree::leaf_hash(&leaf)),
        "tree_size": size.to_string(),
        "root": hash::to_hex(&root),
        "hashes": proof.iter().map(hash::to_hex).collect::<Vec<_>>(),
        "checkpoint": published.note,
    }))
    .into_response())
}

async fn status(State(api): State<Api>, Query(pairs): Pairs) -> Answer {
    params::none(pairs)?;
    let published = api.published.borrow().as_ref().map_or(0, |published| published.size);
    let state = api.read(Store::state).await?;
    let mut cursors = state.cursors;
    cursors.sort_by_key(|(_, last_index)| std::cmp::Reverse(*last_index));
    let chain = |(cursor, last_index): &(ChainCursor, Option<u64>)| -> Value {
        let missing =
            |gap: &MissingRange| json!({"first_seq": gap.first_seq.to_string(), "last_seq": gap.last_seq.to_string()});
        json!({
            "node": cursor.node,
            "epoch": cursor.epoch.to_string(),
            "records": cursor.next_seq.to_string(),
            "complete": cursor.gaps.is_empty(),
            "missing": cursor.gaps.iter().map(missing).collect::<Vec<_>>(),
            "signed_through": cursor.signed_through.map(|seq| seq.to_string()),
            "last_index": last_index.map(|index| index.to_string()),
            "published": last_index.is_none_or(|last| last < published),
        })
    };
    Ok(axum::Json(json!({
        "origin": api.identity.origin,
        "key": api.identity.verifier.to_string(),
        "size": state.size.to_string(),
        "published_size": published.to_string(),
        "chains_total": cursors.len(),
        "chains": cursors.iter().take(STATUS_CHAINS_MAX).map(chain).collect::<Vec<_>>(),
    }))
    .into_response())
}

fn now_us() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX)
}
