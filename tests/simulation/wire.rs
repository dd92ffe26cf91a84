//! Connections between data planes and control planes: two streams of messages, in order, with everything that a wire
//! can do to them.
//!
//! As over TCP, a lost packet is late and so is all that follows it; a cut holds everything up until it is mended or the
//! connection is given up. What waits in the receiver's buffer is there although the receiver sleeps. Beyond TCP, a
//! faulty wire loses whole messages, or repeats one after the next: the streams promise to notice that themselves.
//! The control plane's part runs under its [`Life`]; nobody's part is what is on the way. Each direction of a connection
//! draws from numbers of its own: in which order tasks that wake at one moment run, tokio decides by chance.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bailiwick_consensus::runtime::hosted;
use bailiwick_control_plane::{Replica, Served};
use bailiwick_data_plane::Uplink;
use bailiwick_proto::v1::{ConfigFrame, LaneFrame, LaneMessage, NodeMessage, lane_message};
use futures::{Stream, StreamExt as _};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{self, Instant},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::{
    cluster::Cluster,
    cuts::{Cut, Cuts},
    life::Life,
    random::Random,
    world::lock,
};

/// How long a connection survives without a word from the other side; keep-alive ends it then.
const SILENCE_MAX: Duration = Duration::from_secs(8);
/// How often a cut connection tries again.
const RETRY: Duration = Duration::from_millis(20);
/// Messages that fit into a receiver's buffer, and into the network.
const BUFFERED: usize = 16;

type Received<T> = ReceiverStream<Result<T, Status>>;

/// All connections of one simulation.
#[derive(Debug)]
pub(crate) struct Wires {
    cluster: Arc<Cluster>,
    inner: Mutex<Inner>,
    /// Counts what broke all connections of a data plane, or of all.
    breaks: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    /// Of (data plane, control plane) pairs.
    cuts: Cuts,
    lost_per_mille: u64,
    repeated_per_mille: u64,
    /// Whether a message was ever lost or repeated.
    was_faulty: bool,
    /// Nothing passes on any config stream.
    held: bool,
    /// Rung whenever a data plane asks for a lease.
    asks: BTreeMap<u64, Arc<Notify>>,
}

/// What travels.
trait Message: Clone + Send + 'static {
    /// A question for a lease.
    fn is_ask(&self) -> bool {
        false
    }
}

impl Message for ConfigFrame {}

impl Message for NodeMessage {}

impl Message for LaneFrame {}

impl Message for LaneMessage {
    fn is_ask(&self) -> bool {
        matches!(self.message, Some(lane_message::Message::Ask(_)))
    }
}

/// What becomes of a message on a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Arrives,
    Lost,
    /// It arrives, and once more after the next one.
    Echoes,
}

impl Wires {
    pub(crate) fn new(cluster: &Arc<Cluster>) -> Arc<Self> {
        Arc::new(Self { cluster: cluster.clone(), inner: Mutex::default(), breaks: AtomicU64::new(0) })
    }

    /// How a life of a data plane reaches control planes; `name` is its own.
    pub(crate) fn link(self: &Arc<Self>, data_plane: u64, life: &Arc<Life>, name: String) -> Link {
        let random = self.cluster.world.random(&name);
        let turn = AtomicU64::new(random.below(8));
        Link { wires: self.clone(), data_plane, life: life.clone(), turn, name, random, opened: AtomicU64::new(0) }
    }

    /// Cuts a data plane off these control planes.
    pub(crate) fn cut(&self, data_plane: u64, control_planes: &[u64]) -> Cut {
        lock(&self.inner).cuts.cut(control_planes.iter().map(|control_plane| (data_plane, *control_plane)))
    }

    /// Whether a data plane is cut off some control plane.
    pub(crate) fn is_cut(&self, data_plane: u64) -> bool {
        lock(&self.inner).cuts.begin_at(data_plane)
    }

    /// Mends one cut.
    pub(crate) fn mend(&self, cut: Cut) {
        lock(&self.inner).cuts.mend(cut);
    }

    /// Nothing passes on any config stream, until told otherwise; revocation lanes are as they are.
    pub(crate) fn hold_streams(&self, held: bool) {
        lock(&self.inner).held = held;
    }

    /// Every pair is connected again, and every wire is as good as TCP.
    pub(crate) fn mend_all(&self) {
        let mut inner = lock(&self.inner);
        (inner.lost_per_mille, inner.repeated_per_mille) = (0, 0);
        inner.cuts.mend_all();
    }

    /// From now on messages are lost and repeated.
    pub(crate) fn faulty(&self, lost_per_mille: u64, repeated_per_mille: u64) {
        let mut inner = lock(&self.inner);
        (inner.lost_per_mille, inner.repeated_per_mille) = (lost_per_mille, repeated_per_mille);
    }

    /// Whether a message was ever lost or repeated.
    pub(crate) fn were_faulty(&self) -> bool {
        lock(&self.inner).was_faulty
    }

    /// Returns when the data plane next asks for a lease.
    pub(crate) async fn next_ask(&self, data_plane: u64) {
        let asks = lock(&self.inner).asks.entry(data_plane).or_default().clone();
        asks.notified().await;
    }

    fn asked(&self, data_plane: u64) {
        lock(&self.inner).asks.get(&data_plane).iter().for_each(|asks| asks.notify_waiters());
    }

    /// All connections break.
    pub(crate) fn break_all(&self) {
        self.breaks.fetch_add(1, Ordering::Relaxed);
    }

    fn passes(&self, connection: &Connection) -> bool {
        let inner = lock(&self.inner);
        let pair = (connection.data_plane.0, connection.control_plane.0);
        let is_held = inner.held && connection.is_stream;
        !is_held && !inner.cuts.are_between(pair)
    }

    /// What becomes of a message; each arrives once, but on a faulty wire.
    fn fate(&self, random: &Random) -> Fate {
        let mut inner = lock(&self.inner);
        let (lost, repeated) = (inner.lost_per_mille, inner.repeated_per_mille);
        let fate = match (random.chance(lost), random.chance(repeated)) {
            (true, _) => Fate::Lost,
            (false, true) => Fate::Echoes,
            (false, false) => Fate::Arrives,
        };
        inner.was_faulty |= fate != Fate::Arrives;
        fate
    }

    /// How long one message takes; a lost packet is sent again.
    fn delay(&self, random: &Random) -> Duration {
        self.cluster.network.fate_by(random).unwrap_or_else(|| random.millis(200, 600))
    }
}

/// A data plane's way to the control planes.
#[derive(Debug)]
pub(crate) struct Link {
    wires: Arc<Wires>,
    data_plane: u64,
    life: Arc<Life>,
    turn: AtomicU64,
    name: String,
    random: Random,
    /// Connections so far.
    opened: AtomicU64,
}

/// One connection.
#[derive(Clone, Debug)]
struct Connection {
    wires: Arc<Wires>,
    data_plane: (u64, Arc<Life>),
    control_plane: (u64, Arc<Life>),
    breaks: u64,
    name: String,
    is_stream: bool,
}

impl Link {
    async fn open<Up, Down, F>(
        &self,
        is_stream: bool,
        up: ReceiverStream<Up>,
        serve: impl FnOnce(Replica, Received<Up>) -> F,
    ) -> Result<Received<Down>, Status>
    where
        Up: Message,
        Down: Message,
        F: Future<Output = Result<Served<Down>, Status>> + Send + 'static,
    {
        let cluster = &self.wires.cluster;
        let ids = cluster.ids();
        let turn = self.turn.load(Ordering::Relaxed).checked_rem(ids.len() as u64).unwrap_or(0);
        let control_plane = ids.get(turn as usize).copied().unwrap_or(0);
        time::sleep(self.wires.delay(&self.random)).await;
        let Some((life, replica)) = cluster.host(control_plane) else {
            return Err(Status::unavailable("nobody listens"));
        };
        let connection = Connection {
            wires: self.wires.clone(),
            data_plane: (self.data_plane, self.life.clone()),
            control_plane: (control_plane, life.clone()),
            breaks: self.wires.breaks.load(Ordering::Relaxed),
            name: format!("{} {}", self.name, self.opened.fetch_add(1, Ordering::Relaxed)),
            is_stream,
        };
        let asked = connection.carry("up", up.map(Ok));
        let (reply, answer) = oneshot::channel();
        let serving = serve(replica, asked);
        let (host, sending) = (life.clone(), life.clone());
        tokio::task::spawn(hosted(life, async move {
            match serving.await {
                Ok((frames, session)) => {
                    tokio::task::spawn(hosted(host, session));
                    // What a process has not written yet is not on the way while it sleeps.
                    let (written, writing) = mpsc::channel(1);
                    tokio::task::spawn(hosted(sending, write(frames, written)));
                    drop(reply.send(Ok(connection.carry("down", ReceiverStream::new(writing)))));
                }
                Err(status) => drop(reply.send(Err(status))),
            }
        }));
        let opened = answer.await.map_err(|_| Status::unavailable("the control plane is gone"))?;
        time::sleep(self.wires.delay(&self.random)).await;
        opened
    }
}

impl Uplink for Link {
    type Frames = Received<ConfigFrame>;
    type LaneFrames = Received<LaneFrame>;

    async fn stream(&self, up: ReceiverStream<NodeMessage>) -> Result<Self::Frames, Status> {
        self.open(true, up, async |replica: Replica, messages| replica.stream(messages).await).await
    }

    async fn lane(&self, up: ReceiverStream<LaneMessage>) -> Result<Self::LaneFrames, Status> {
        self.open(false, up, async |replica: Replica, messages| replica.lane(messages).await).await
    }

    fn advance(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
    }
}

async fn write<T>(mut frames: impl Stream<Item = Result<T, Status>> + Unpin, written: mpsc::Sender<Result<T, Status>>) {
    while let Some(frame) = frames.next().await {
        if written.send(frame).await.is_err() {
            return;
        }
    }
}

impl Connection {
    /// Takes what is sent at one end to the other.
    fn carry<T>(
        &self,
        way: &str,
        mut sent: impl Stream<Item = Result<T, Status>> + Unpin + Send + 'static,
    ) -> Received<T>
    where
        T: Message,
    {
        let (on_the_way, mut arriving) = mpsc::channel::<(Instant, Result<T, Status>)>(BUFFERED);
        let (deliver, delivered) = mpsc::channel(BUFFERED);
        let (sending, receiving) = (self.clone(), self.clone());
        let random = self.wires.cluster.world.random(&format!("{} {way}", self.name));
        tokio::task::spawn(async move {
            let (mut last, mut echo) = (Instant::now(), None);
            loop {
                tokio::select! {
                    biased;
                    message = sent.next() => {
                        let Some(message) = message else { return };
                        if message.as_ref().is_ok_and(T::is_ask) {
                            sending.wires.asked(sending.data_plane.0);
                        }
                        // Nothing overtakes.
                        last = last.max(Instant::now() + sending.wires.delay(&random));
                        let fate = sending.wires.fate(&random);
                        let again = if fate == Fate::Echoes { Some(message.clone()) } else { None };
                        let echoed = std::mem::replace(&mut echo, again);
                        let message = Some(message).filter(|_| fate != Fate::Lost);
                        for message in message.into_iter().chain(echoed) {
                            if on_the_way.send((last, message)).await.is_err() {
                                return;
                            }
                        }
                    }
                    // The other end is gone: so is this one, and whoever writes into it notices.
                    () = on_the_way.closed() => return,
                }
            }
        });
        tokio::task::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    status = receiving.broken() => {
                        drop(deliver.send(Err(status)).await);
                        return;
                    }
                    () = deliver.closed() => return,
                    message = arriving.recv() => {
                        let Some((at, message)) = message else { return };
                        time::sleep_until(at).await;
                        if let Err(status) = receiving.passed().await {
                            drop(deliver.send(Err(status)).await);
                            return;
                        }
                        if deliver.send(message).await.is_err() {
                            return;
                        }
                    }
                }
            }
        });
        ReceiverStream::new(delivered)
    }

    /// Waits while the two are cut off from each other.
    async fn passed(&self) -> Result<(), Status> {
        let since = Instant::now();
        while !self.wires.passes(self) {
            if since.elapsed() > SILENCE_MAX {
                return Err(Status::unavailable("the connection was given up"));
            }
            time::sleep(RETRY).await;
        }
        if self.is_broken() { Err(Status::unavailable("the connection broke")) } else { Ok(()) }
    }

    /// Returns when one end is gone, or the connection broke.
    async fn broken(&self) -> Status {
        while !self.is_broken() {
            time::sleep(RETRY).await;
        }
        Status::unavailable("the connection broke")
    }

    fn is_broken(&self) -> bool {
        self.wires.breaks.load(Ordering::Relaxed) != self.breaks
            || self.data_plane.1.is_over()
            || self.control_plane.1.is_over()
    }
}
