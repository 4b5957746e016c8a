//! The RocketMQ v2 gRPC protocol, one file per call.
//!
//! What goes wrong is told by a status inside the response; the call itself fails only where the protocol wants
//! that: for settings that are refused, and while the broker is stopping.

mod ack;
mod admission;
mod assignment;
mod backoff;
mod caller;
mod change;
mod codec;
mod convert;
mod dead_letter;
mod heartbeat;
mod lite;
mod offset;
mod pull;
mod recall;
mod receive;
mod refusal;
mod route;
mod send;
mod session;
mod signature;
mod streamed;
mod telemetry;
mod termination;
mod transaction;

use std::sync::Arc;

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, service::interceptor::InterceptedService};
use weir_engine::{AskProducer, Broker};

use crate::context::ServerContext;
pub use admission::Admission;
use caller::Caller;
use proto::messaging_service_server::{MessagingService, MessagingServiceServer};
use refusal::answer;
use session::Sessions;
use transaction::Asker;

pub use signature::Doorkeeper;

/// The messages of the protocol, with client and server, as generated from `proto/rocketmq.proto`.
#[allow(
    missing_docs,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::semicolon_if_nothing_returned,
    reason = "generated code keeps a style of its own"
)]
pub mod proto {
    tonic::include_proto!("apache.rocketmq.v2");
}

/// The largest request; RocketMQ's own server has this limit.
const REQUEST_BYTES_MAX: usize = 130 << 20;

/// Returns the service that answers RocketMQ clients on one listener.
pub fn service(
    broker: Broker,
    context: Arc<ServerContext>,
) -> InterceptedService<Admission<MessagingServiceServer<Messaging>>, Doorkeeper> {
    let doorkeeper = Doorkeeper::new(broker.clone());
    let sessions: Arc<Sessions> = Arc::default();
    let store_host = context.advertised.to_string();
    let asker = Arc::new(Asker { sessions: Arc::clone(&sessions), store_host });
    let asked_by: Arc<dyn AskProducer> = Arc::clone(&asker) as _;
    broker.ask_producers_by(&asked_by);
    let messaging = Messaging { broker, context, sessions, told: Arc::default(), _asker: asker };
    let service = MessagingServiceServer::new(messaging)
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(usize::MAX);
    InterceptedService::new(Admission::new(service), doorkeeper)
}

/// Answers RocketMQ clients. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Messaging {
    broker: Broker,
    context: Arc<ServerContext>,
    sessions: Arc<Sessions>,
    told: Arc<telemetry::Told>,
    /// Known to the broker as long as somebody can be asked.
    _asker: Arc<Asker>,
}

#[tonic::async_trait]
impl MessagingService for Messaging {
    async fn query_route(
        &self,
        request: Request<proto::QueryRouteRequest>,
    ) -> Result<Response<proto::QueryRouteResponse>, Status> {
        let caller = Caller::of(&request);
        answer(&caller, route::query_route(self, &caller, request.into_inner()).await)
    }

    async fn heartbeat(
        &self,
        request: Request<proto::HeartbeatRequest>,
    ) -> Result<Response<proto::HeartbeatResponse>, Status> {
        let caller = Caller::of(&request);
        answer(&caller, heartbeat::heartbeat(self, &caller, request.get_ref()))
    }

    async fn send_message(
        &self,
        request: Request<proto::SendMessageRequest>,
    ) -> Result<Response<proto::SendMessageResponse>, Status> {
        let caller = Caller::of(&request);
        answer(&caller, send::send_message(self, &caller, request.into_inner()).await)
    }

    async fn query_assignment(
        &self,
        request: Request<proto::QueryAssignmentRequest>,
    ) -> Result<Response<proto::QueryAssignmentResponse>, Status> {
        let caller = Caller::of(&request);
        answer(&caller, assignment::query_assignment(self, &caller, request.into_inner()))
    }

    type ReceiveMessageStream = streamed::Streamed<proto::ReceiveMessageResponse>;

    async fn receive_message(
        &self,
        request: Request<proto::ReceiveMessageRequest>,
    ) -> Result<Response<Self::ReceiveMessageStream>, Status> {
        let caller = Caller::of(&request);
        Ok(Response::new(receive::receive_message(self, caller, request.into_inner())))
    }

    async fn ack_message(
        &self,
        request: Request<proto::AckMessageRequest>,
    ) -> Result<Response<proto::AckMessageResponse>, Status> {
        let caller = Caller::of(&request);
        answer(&caller, ack::ack_message(self, &caller, request.into_inner()).await)
    }

    async fn change_invisible_duration(
        &self,
        request: Request<proto::ChangeInvisibleDurationRequest>,
    ) -> Result<Response<proto::ChangeInvisibleDurationResponse>, Status> {
        let caller = Caller::of(&request);
        answer(&caller, change::change_invisible_duration(self, &caller, request.into_inner()).await)
    }

    async fn forward_message_to_dead_letter_queue(
        &self,
        request: Request<proto::ForwardMessageToDeadLetterQueueRequest>,
    ) -> Result<Response<proto::ForwardMessageToDeadLetterQueueResponse>, Status> {
        let caller = Caller::of(&request);
        let forwarded =
            dead_letter::forward_message_to_dead_letter_queue(self, &caller, request.into_inner()).await;
        answer(&caller, forwarded)
    }

    type TelemetryStream = ReceiverStream<session::Sent>;

    async fn telemetry(
        &self,
        request: Request<Streaming<proto::TelemetryCommand>>,
    ) -> Result<Response<Self::TelemetryStream>, Status> {
        let caller = Caller::of(&request);
        Ok(Response::new(telemetry::telemetry(self, caller, request.into_inner())))
    }

    async fn notify_client_termination(
        &self,
        request: Request<proto::NotifyClientTerminationRequest>,
    ) -> Result<Response<proto::NotifyClientTerminationResponse>, Status> {
        let caller = Caller::of(&request);
        answer(&caller, termination::notify_client_termination(self, &caller))
    }

    async fn end_transaction(
        &self,
        request: Request<proto::EndTransactionRequest>,
    ) -> Result<Response<proto::EndTransactionResponse>, Status> {
        let caller = Caller::of(&request);
        answer(&caller, transaction::end_transaction(self, &caller, request.into_inner()).await)
    }

    async fn recall_message(
        &self,
        request: Request<proto::RecallMessageRequest>,
    ) -> Result<Response<proto::RecallMessageResponse>, Status> {
        let caller = Caller::of(&request);
        answer(&caller, recall::recall_message(self, &caller, request.into_inner()).await)
    }

    async fn sync_lite_subscription(
        &self,
        request: Request<proto::SyncLiteSubscriptionRequest>,
    ) -> Result<Response<proto::SyncLiteSubscriptionResponse>, Status> {
        let caller = Caller::of(&request);
        answer(&caller, lite::sync_lite_subscription(self, &caller, request.into_inner()).await)
    }

    type PullMessageStream = streamed::Streamed<proto::PullMessageResponse>;

    async fn pull_message(
        &self,
        request: Request<proto::PullMessageRequest>,
    ) -> Result<Response<Self::PullMessageStream>, Status> {
        let caller = Caller::of(&request);
        Ok(Response::new(pull::pull_message(self, caller, request.into_inner())))
    }

    async fn update_offset(
        &self,
        request: Request<proto::UpdateOffsetRequest>,
    ) -> Result<Response<proto::UpdateOffsetResponse>, Status> {
        let caller = Caller::of(&request);
        answer(&caller, offset::update_offset(self, &caller, request.into_inner()).await)
    }

    async fn get_offset(
        &self,
        request: Request<proto::GetOffsetRequest>,
    ) -> Result<Response<proto::GetOffsetResponse>, Status> {
        let caller = Caller::of(&request);
        answer(&caller, offset::get_offset(self, &caller, request.get_ref()))
    }

    async fn query_offset(
        &self,
        request: Request<proto::QueryOffsetRequest>,
    ) -> Result<Response<proto::QueryOffsetResponse>, Status> {
        let caller = Caller::of(&request);
        answer(&caller, offset::query_offset(self, &caller, request.into_inner()).await)
    }
}
