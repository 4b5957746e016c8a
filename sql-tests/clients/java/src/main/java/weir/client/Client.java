package weir.client;

import java.io.Closeable;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.FilterExpressionType;
import org.apache.rocketmq.client.apis.consumer.PushConsumer;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.Message;
import org.apache.rocketmq.client.apis.message.MessageBuilder;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.java.misc.MetadataUtils;

/** The official Java client against Weir. Arguments and output: ../README.md. */
public final class Client {
    private static final int RECEIVE_MAX = 32;
    /** The machine may be busy. */
    private static final Duration REQUEST_TIMEOUT = Duration.ofSeconds(10);
    private static final Duration POLL = Duration.ofSeconds(1);
    private static final Duration GIVEN_BACK_AFTER = Duration.ofSeconds(1);

    private final Options options;
    private final ClientServiceProvider provider = ClientServiceProvider.loadService();
    private final Errors errors = new Errors();

    private Client(Options options) {
        this.options = options;
    }

    public static void main(String[] words) throws Exception {
        new Client(new Options(words)).act();
        // Some threads of the client would go on.
        System.exit(0);
    }

    private void act() throws Exception {
        switch (options.action) {
            case "version":
                print(String.format("{\"client\":\"java\",\"version\":\"%s\"}", MetadataUtils.getVersion()));
                break;
            case "publish":
                publish();
                break;
            case "pending":
                pending();
                break;
            case "receive":
                receive();
                break;
            case "push":
                push();
                break;
            case "lite-push":
                litePush();
                break;
            default:
                throw new IllegalArgumentException("the client has no action " + options.action);
        }
    }

    private ClientConfiguration configuration() {
        return ClientConfiguration.newBuilder()
            .setEndpoints(options.required("endpoint"))
            .enableSsl(options.text("tls").isPresent())
            .setRequestTimeout(REQUEST_TIMEOUT)
            .build();
    }

    private Map<String, FilterExpression> subscriptions() {
        FilterExpression filter = options.text("tags")
            .map(tags -> new FilterExpression(tags, FilterExpressionType.TAG))
            .orElseGet(() -> new FilterExpression(options.required("where"), FilterExpressionType.SQL92));
        return Map.of(options.required("topic"), filter);
    }

    private static void print(String report) {
        System.out.println(report);
        System.out.flush();
    }

    private void publish() throws Exception {
        String topic = options.required("topic");
        int count = options.number("count", 100);
        int first = options.number("first", 0);
        int lines = options.number("lines", 0);
        int liteTopics = options.number("lite-topics", 0);
        int pauseMs = options.number("pause-ms", 0);
        long endNs = System.nanoTime() + options.seconds("seconds", 60).toNanos();
        try (Producer producer =
            provider.newProducerBuilder().setClientConfiguration(configuration()).setTopics(topic).build()) {
            for (int n = first; n < first + count; n++) {
                MessageBuilder builder = Content.message(provider, topic, n, lines);
                if (liteTopics > 0) {
                    Lite.setLiteTopic(builder, n % liteTopics);
                }
                Message message = builder.build();
                repeat(endNs, () -> producer.send(message));
                Thread.sleep(pauseMs);
            }
        }
        print(String.format("{\"client\":\"java\",\"published\":%d,%s}", count, errors.report()));
    }

    private void pending() throws Exception {
        int count = options.number("count", 100);
        Pending pending = new Pending(provider, options.required("topic"));
        int recalled = pending.send(configuration(), count, options.seconds("seconds", 60));
        String counts = String.format("\"published\":%d,\"recalled\":%d", count, recalled);
        print(String.format("{\"client\":\"java\",%s,%s}", counts, errors.report()));
    }

    private void receive() throws Exception {
        Duration invisible = options.seconds("invisible", 15);
        Tally tally = new Tally(options);
        try (SimpleConsumer consumer = provider.newSimpleConsumerBuilder()
            .setClientConfiguration(configuration())
            .setConsumerGroup(options.required("group"))
            .setSubscriptionExpressions(subscriptions())
            .setAwaitDuration(POLL)
            .build()) {
            while (!tally.enough()) {
                for (MessageView received : receive(consumer, invisible)) {
                    settle(consumer, tally, received);
                }
            }
        }
        print(tally.report(errors));
    }

    private List<MessageView> receive(SimpleConsumer consumer, Duration invisible) throws InterruptedException {
        try {
            return consumer.receive(RECEIVE_MAX, invisible);
        } catch (ClientException | RuntimeException error) {
            errors.add(error);
            return List.of();
        }
    }

    private void settle(SimpleConsumer consumer, Tally tally, MessageView received) throws Exception {
        if (tally.fails(received)) {
            consumer.changeInvisibleDuration(received, GIVEN_BACK_AFTER);
            return;
        }
        repeat(tally.endNs(), () -> {
            consumer.ack(received);
            return null;
        });
        tally.add(received);
    }

    private void push() throws Exception {
        Tally tally = new Tally(options);
        try (PushConsumer consumer = provider.newPushConsumerBuilder()
            .setClientConfiguration(configuration())
            .setConsumerGroup(options.required("group"))
            .setSubscriptionExpressions(subscriptions())
            .setMessageListener(received -> consume(tally, received))
            .build()) {
            while (!tally.enough()) {
                Thread.sleep(100);
            }
            print(tally.report(errors));
        }
    }

    private void litePush() throws Exception {
        Tally tally = new Tally(options);
        String group = options.required("group");
        try (Closeable consumer = Lite.consumer(provider, configuration(), group, options.required("topic"),
            options.required("lite-topics"), received -> consume(tally, received))) {
            while (!tally.enough()) {
                Thread.sleep(100);
            }
            print(tally.report(errors));
        }
    }

    private static ConsumeResult consume(Tally tally, MessageView received) {
        if (tally.fails(received)) {
            return ConsumeResult.FAILURE;
        }
        tally.add(received);
        return ConsumeResult.SUCCESS;
    }

    /** Makes a call again until it succeeds. Without a connection the client throws what its gRPC library throws. */
    private void repeat(long endNs, Callable<?> call) throws Exception {
        while (true) {
            try {
                call.call();
                return;
            } catch (ClientException | RuntimeException error) {
                if (System.nanoTime() > endNs) {
                    throw error;
                }
                errors.add(error);
            }
        }
    }
}
