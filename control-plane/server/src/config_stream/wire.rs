//! The gRPC service `bailiwick.v1.Config`, with frames that are encoded once.
//!
//! The generated server would encode every frame for every node. Here a [`Frame`] is encoded bytes from the start,
//! and the codec of `Stream` and `Lane` only copies them out; the two unary methods use the ordinary codec. Behaviour
//! of the methods is in `config_stream`. Message sizes are bounded on the way in.

use std::{
    convert::Infallible,
    fmt,
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll},
};

use bailiwick_proto::v1::{self, config_frame, lane_frame};
use bytes::{BufMut as _, Bytes};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codec::{Codec, EncodeBuf, Encoder},
    codegen::{BoxFuture, Service, http},
    server::{Grpc, NamedService, StreamingService, UnaryService},
};
use tonic_prost::{ProstCodec, ProstDecoder};

use super::{ConfigService, lane::LaneFrames, session::Frames};
use crate::authorisation::Who;

/// Largest message from a node: a server's whole tool list.
const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Largest message on a lane: a name and a digest, with room.
const LANE_MESSAGE_BYTES_MAX: usize = 4 * 1024;

/// One message of the protocol, a `ConfigFrame` unless said otherwise, encoded. Clones share the bytes.
#[derive(Clone)]
pub(crate) struct Frame<M = v1::ConfigFrame> {
    bytes: Bytes,
    message: PhantomData<fn() -> M>,
}

/// One frame of a revocation lane.
pub(crate) type LaneFrame = Frame<v1::LaneFrame>;

impl Frame {
    pub(crate) fn encode(frame: config_frame::Frame) -> Self {
        Self::of(&v1::ConfigFrame { frame: Some(frame) })
    }

    /// Says nothing, but is heard.
    pub(crate) fn nothing() -> Self {
        Self::of(&v1::ConfigFrame { frame: None })
    }
}

impl LaneFrame {
    pub(crate) fn on_lane(frame: lane_frame::Frame) -> Self {
        Self::of(&v1::LaneFrame { frame: Some(frame) })
    }
}

impl<M: prost::Message> Frame<M> {
    fn of(message: &M) -> Self {
        Self { bytes: message.encode_to_vec().into(), message: PhantomData }
    }

    /// Bytes of an encoded message that are held elsewhere, too.
    pub(crate) fn shared(bytes: Arc<Vec<u8>>) -> Self {
        Self { bytes: Bytes::from_owner(Shared(bytes)), message: PhantomData }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes.into()
    }

    #[cfg(test)]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.bytes.as_ptr() == other.bytes.as_ptr()
    }

    pub(crate) const fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn decode(&self) -> Result<M, Status>
    where
        M: Default,
    {
        M::decode(self.bytes.clone()).map_err(|error| Status::internal(error.to_string()))
    }
}

struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Without content: a frame may hold keys.
impl<M> fmt::Debug for Frame<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame").field("bytes", &self.bytes.len()).finish()
    }
}

/// Reads messages `D` as usual and writes frames of `M` as they are.
#[derive(Clone, Copy, Debug)]
struct FrameCodec<M, D>(PhantomData<fn() -> (M, D)>);

/// The writing half of [`FrameCodec`].
#[derive(Clone, Copy, Debug)]
struct FrameEncoder<M>(PhantomData<fn() -> M>);

impl<M, D> FrameCodec<M, D> {
    const NEW: Self = Self(PhantomData);
}

impl<M, D> Codec for FrameCodec<M, D>
where
    M: Send + 'static,
    D: prost::Message + Default + Send + 'static,
{
    type Encode = Frame<M>;
    type Decode = D;
    type Encoder = FrameEncoder<M>;
    type Decoder = ProstDecoder<D>;

    fn encoder(&mut self) -> FrameEncoder<M> {
        FrameEncoder(PhantomData)
    }

    fn decoder(&mut self) -> ProstDecoder<D> {
        ProstCodec::<D, D>::default().decoder()
    }
}

impl<M> Encoder for FrameEncoder<M> {
    type Item = Frame<M>;
    type Error = Status;

    fn encode(&mut self, frame: Frame<M>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(frame.bytes);
        Ok(())
    }
}

/// Serves the methods of one [`ConfigService`].
#[derive(Clone, Debug)]
pub(crate) struct ConfigServer(pub(crate) Arc<ConfigService>);

impl NamedService for ConfigServer {
    const NAME: &'static str = "bailiwick.v1.Config";
}

impl Service<http::Request<Body>> for ConfigServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = Arc::clone(&self.0);
        match request.uri().path() {
            "/bailiwick.v1.Config/Stream" => Box::pin(async move {
                let mut grpc = Grpc::new(FrameCodec::NEW).max_decoding_message_size(MESSAGE_BYTES_MAX);
                Ok(grpc.streaming(Stream(service), request).await)
            }),
            "/bailiwick.v1.Config/Lane" => Box::pin(async move {
                let mut grpc = Grpc::new(FrameCodec::NEW).max_decoding_message_size(LANE_MESSAGE_BYTES_MAX);
                Ok(grpc.streaming(Lane(service), request).await)
            }),
            "/bailiwick.v1.Config/RegisterNode" => Box::pin(async move {
                let mut grpc = Grpc::new(ProstCodec::default()).max_decoding_message_size(MESSAGE_BYTES_MAX);
                Ok(grpc.unary(RegisterNode(service), request).await)
            }),
            "/bailiwick.v1.Config/ReserveEpoch" => Box::pin(async move {
                let mut grpc = Grpc::new(ProstCodec::default()).max_decoding_message_size(MESSAGE_BYTES_MAX);
                Ok(grpc.unary(ReserveEpoch(service), request).await)
            }),
            "/bailiwick.v1.Config/BeginReserved" => Box::pin(async move {
                let mut grpc = Grpc::new(ProstCodec::default()).max_decoding_message_size(MESSAGE_BYTES_MAX);
                Ok(grpc.unary(BeginReserved(service), request).await)
            }),
            "/bailiwick.v1.Config/ReportTools" => Box::pin(async move {
                let mut grpc = Grpc::new(ProstCodec::default()).max_decoding_message_size(MESSAGE_BYTES_MAX);
                Ok(grpc.unary(ReportTools(service), request).await)
            }),
            _ => Box::pin(async { Ok(Status::unimplemented("no such method").into_http()) }),
        }
    }
}

/// Who asks, as `forward` found out, and what.
fn asked<T>(request: Request<T>) -> (Who, T) {
    let who = request.extensions().get::<Who>().cloned().unwrap_or(Who::Anonymous);
    (who, request.into_inner())
}

struct Stream(Arc<ConfigService>);

impl StreamingService<v1::NodeMessage> for Stream {
    type Response = Frame;
    type ResponseStream = Frames;
    type Future = BoxFuture<Response<Frames>, Status>;

    fn call(&mut self, request: Request<Streaming<v1::NodeMessage>>) -> Self::Future {
        let service = Arc::clone(&self.0);
        let (who, request) = asked(request);
        Box::pin(async move { service.stream(&who, request).await.map(Response::new) })
    }
}

struct Lane(Arc<ConfigService>);

impl StreamingService<v1::LaneMessage> for Lane {
    type Response = LaneFrame;
    type ResponseStream = LaneFrames;
    type Future = BoxFuture<Response<LaneFrames>, Status>;

    fn call(&mut self, request: Request<Streaming<v1::LaneMessage>>) -> Self::Future {
        let service = Arc::clone(&self.0);
        let (who, request) = asked(request);
        Box::pin(async move { service.lane(&who, request).await.map(Response::new) })
    }
}

struct RegisterNode(Arc<ConfigService>);

impl UnaryService<v1::RegisterNodeRequest> for RegisterNode {
    type Response = v1::RegisterNodeResponse;
    type Future = BoxFuture<Response<v1::RegisterNodeResponse>, Status>;

    fn call(&mut self, request: Request<v1::RegisterNodeRequest>) -> Self::Future {
        let service = Arc::clone(&self.0);
        let (who, request) = asked(request);
        Box::pin(async move { service.register_node(&who, request).await.map(Response::new) })
    }
}

struct ReserveEpoch(Arc<ConfigService>);

impl UnaryService<v1::ReserveEpochRequest> for ReserveEpoch {
    type Response = v1::ReserveEpochResponse;
    type Future = BoxFuture<Response<v1::ReserveEpochResponse>, Status>;

    fn call(&mut self, request: Request<v1::ReserveEpochRequest>) -> Self::Future {
        let service = Arc::clone(&self.0);
        let (who, request) = asked(request);
        Box::pin(async move { service.reserve_epoch(&who, request).await.map(Response::new) })
    }
}

struct BeginReserved(Arc<ConfigService>);

impl UnaryService<v1::BeginReservedRequest> for BeginReserved {
    type Response = v1::BeginReservedResponse;
    type Future = BoxFuture<Response<v1::BeginReservedResponse>, Status>;

    fn call(&mut self, request: Request<v1::BeginReservedRequest>) -> Self::Future {
        let service = Arc::clone(&self.0);
        let (who, request) = asked(request);
        Box::pin(async move { service.begin_reserved(&who, request).await.map(Response::new) })
    }
}

struct ReportTools(Arc<ConfigService>);

impl UnaryService<v1::ReportToolsRequest> for ReportTools {
    type Response = v1::ReportToolsResponse;
    type Future = BoxFuture<Response<v1::ReportToolsResponse>, Status>;

    fn call(&mut self, request: Request<v1::ReportToolsRequest>) -> Self::Future {
        let service = Arc::clone(&self.0);
        let (who, request) = asked(request);
        Box::pin(async move { service.report_tools(&who, request).await.map(Response::new) })
    }
}
