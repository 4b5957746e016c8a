//! QueryRoute: which queues a topic has, and where they are.

use weir_engine::{TopicDescription, TopicType};

use super::{
    Messaging,
    caller::Caller,
    convert::{topic_name, wire_type},
    proto::{
        Address, AddressScheme, Broker, Code, Endpoints, MessageQueue, Permission, QueryRouteRequest,
        QueryRouteResponse, Resource,
    },
    refusal::Refusal,
};
use crate::context::ServerContext;

/// Addresses of one access point. They come back with every queue, so that there must be a bound.
const ADDRESSES_MAX: usize = 16;

/// The longest host name that DNS knows.
const HOST_BYTES_MAX: usize = 253;

/// Returns the queues of a topic. Creates the topic if the broker may.
pub(super) async fn query_route(
    messaging: &Messaging,
    caller: &Caller,
    request: QueryRouteRequest,
) -> Result<QueryRouteResponse, Refusal> {
    caller.check()?;
    let name = topic_name(request.topic.as_ref(), caller)?;
    let endpoints = endpoints(request.endpoints, &messaging.context)?;
    let topic = messaging.broker.topic_or_create(&name).await?;
    messaging.sessions.routed(caller);
    Ok(QueryRouteResponse {
        status: Some(caller.status(Code::Ok, "")),
        message_queues: message_queues(messaging, caller, &topic, request.topic, endpoints),
    })
}

/// Returns every queue of a topic.
pub(super) fn message_queues(
    messaging: &Messaging,
    caller: &Caller,
    topic: &TopicDescription,
    resource: Option<Resource>,
    endpoints: Endpoints,
) -> Vec<MessageQueue> {
    let any = any_queue(messaging, caller, topic.topic_type, resource, endpoints);
    let queue = |id| MessageQueue { id, ..any.clone() };
    (0..i32::try_from(topic.queues.len()).unwrap_or(i32::MAX)).map(queue).collect()
}

/// Returns the queue that stands for all queues of a topic: its id is −1.
pub(super) fn any_queue(
    messaging: &Messaging,
    caller: &Caller,
    topic_type: TopicType,
    topic: Option<Resource>,
    endpoints: Endpoints,
) -> MessageQueue {
    let types = topic_type.message_types().iter();
    let types = types.map(|message_type| caller.message_type(wire_type(*message_type)));
    MessageQueue {
        topic,
        id: -1,
        permission: Permission::ReadWrite.into(),
        broker: Some(Broker { name: messaging.context.node_name.clone(), id: 0, endpoints: Some(endpoints) }),
        accept_message_types: types.map(i32::from).collect(),
    }
}

/// Returns the endpoints by which the client reached us, to the letter: it keeps one session for each text, and
/// behind a port mapping no other address would do. A client that names none gets the advertised address.
pub(super) fn endpoints(asked: Option<Endpoints>, context: &ServerContext) -> Result<Endpoints, Refusal> {
    let Some(endpoints) = asked else {
        return Ok(advertised(context));
    };
    let usable = |address: &Address| {
        (1..=i32::from(u16::MAX)).contains(&address.port)
            && (1..=HOST_BYTES_MAX).contains(&address.host.trim().len())
    };
    let count = endpoints.addresses.len();
    let fault = if endpoints.scheme() == AddressScheme::Unspecified {
        "the scheme of the endpoints is missing or unknown"
    } else if count == 0 {
        "the endpoints hold no address"
    } else if count > ADDRESSES_MAX {
        "the endpoints hold more than 16 addresses"
    } else if endpoints.scheme() == AddressScheme::DomainName && count > 1 {
        "endpoints that are domain names hold one address"
    } else if !endpoints.addresses.iter().all(usable) {
        "an address of the endpoints has no host, or a port outside 1 to 65535"
    } else {
        return Ok(endpoints);
    };
    Err(Refusal::new(Code::IllegalAccessPoint, fault))
}

fn advertised(context: &ServerContext) -> Endpoints {
    let host = &context.advertised.host;
    let scheme = match host.parse() {
        Ok(std::net::IpAddr::V4(_)) => AddressScheme::IPv4,
        Ok(std::net::IpAddr::V6(_)) => AddressScheme::IPv6,
        Err(_) => AddressScheme::DomainName,
    };
    let address = Address { host: host.clone(), port: i32::from(context.advertised.port) };
    Endpoints { scheme: scheme.into(), addresses: vec![address] }
}
