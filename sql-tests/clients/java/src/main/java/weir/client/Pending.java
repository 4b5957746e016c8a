package weir.client;

import java.lang.reflect.Method;
import java.time.Duration;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentSkipListSet;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.message.MessageBuilder;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.SendReceipt;
import org.apache.rocketmq.client.apis.producer.Transaction;
import org.apache.rocketmq.client.apis.producer.TransactionResolution;

/** Sends messages that nobody is to see at once: see ../README.md. */
final class Pending {
    private static final Duration DELAY = Duration.ofSeconds(3);

    private final ClientServiceProvider provider;
    private final String topic;
    private final Set<Integer> checked = new ConcurrentSkipListSet<>();
    private int recalled;

    Pending(ClientServiceProvider provider, String topic) {
        this.provider = provider;
        this.topic = topic;
    }

    /** Sends them, answers what the broker asks, and returns how many were recalled. */
    int send(ClientConfiguration configuration, int count, Duration limit) throws Exception {
        long endNs = System.nanoTime() + limit.toNanos();
        Set<Integer> open = new TreeSet<>();
        try (Producer producer = provider.newProducerBuilder()
            .setClientConfiguration(configuration)
            .setTopics(topic)
            .setTransactionChecker(this::check)
            .build()) {
            for (int n = 0; n < count; n++) {
                send(producer, n);
                if (n % 5 == 4) {
                    open.add(n);
                }
            }
            while (!checked.equals(open)) {
                if (System.nanoTime() > endNs) {
                    throw new IllegalStateException("asked about " + checked + " alone");
                }
                Thread.sleep(100);
            }
            // The answers go out behind the questions.
            Thread.sleep(1000);
        }
        return recalled;
    }

    private TransactionResolution check(MessageView half) {
        if (Content.isWrong(half)) {
            return TransactionResolution.UNKNOWN;
        }
        int n = Content.number(half);
        checked.add(n);
        return n % 2 == 0 ? TransactionResolution.COMMIT : TransactionResolution.ROLLBACK;
    }

    private void send(Producer producer, int n) throws Exception {
        MessageBuilder message = Content.message(provider, topic, n, 0);
        int kind = n % 5;
        if (kind == 0 || kind == 1 && recalls() != null) {
            message.setDeliveryTimestamp(System.currentTimeMillis() + DELAY.toMillis());
            SendReceipt receipt = producer.send(message.build());
            if (kind == 1) {
                recalls().invoke(producer, topic, SendReceipt.class.getMethod("getRecallHandle").invoke(receipt));
                recalled += 1;
            }
            return;
        }
        Transaction transaction = producer.beginTransaction();
        producer.send(message.build(), transaction);
        if (kind == 2) {
            transaction.commit();
        } else if (kind != 4) {
            transaction.rollback();
        }
    }

    /** Returns the method that recalls a message, which the oldest client does not have. */
    private static Method recalls() {
        try {
            return Producer.class.getMethod("recallMessage", String.class, String.class);
        } catch (NoSuchMethodException error) {
            return null;
        }
    }
}
