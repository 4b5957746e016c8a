//! A broker inside a program: no server, no port.
//!
//! Run it with `cargo run -p weir-engine --example embedded`.

use std::time::Duration;

use weir_columns::Value;
use weir_engine::{Broker, BrokerOptions, GroupName, Message, ReceiveRequest, TopicName, TopicSpec};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("weir-embedded-{}", std::process::id()));

    // Opening makes the directory if there is none, and recovers it if it was not closed.
    let broker = Broker::open(BrokerOptions::new(&dir)).await?;
    let orders: TopicName = "orders".parse()?;
    broker.create_topic(&orders, TopicSpec::default()).await?;

    // `publish` returns once the messages are on the disk.
    let messages = [("EU", 12), ("US", 250), ("EU", 990)].map(|(region, price)| Message {
        properties: vec![
            ("region".to_owned(), Value::Text(region.to_owned())),
            ("price".to_owned(), Value::I64(price)),
        ],
        body: format!("an order of {price} from {region}").into(),
        ..Message::default()
    });
    broker.publish(&orders, messages.into()).await?;

    // A group reads what its selector is TRUE for, from the earliest row on. The group is made on first use.
    let billing: GroupName = "billing".parse()?;
    let request = ReceiveRequest {
        selector: broker.parse_selector("region = 'EU' AND price > 100")?,
        wait: Duration::from_secs(1),
        ..ReceiveRequest::new(billing.clone(), orders.clone())
    };
    for delivered in broker.receive(request).await? {
        println!("{}", String::from_utf8_lossy(&delivered.message.message.body));
        // Without this it would be delivered again when its lease of 60 s ends.
        let results = broker.acknowledge(&billing, &orders, &[delivered.handle]).await;
        results.into_iter().collect::<Result<Vec<()>, _>>()?;
    }

    for queue in &broker.group(&billing)?.topics[0].queues {
        println!("queue {}: committed up to {} of {}", queue.queue, queue.committed, queue.end);
    }

    broker.close().await?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
