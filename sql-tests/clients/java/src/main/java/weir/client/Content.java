package weir.client;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Locale;
import java.util.Optional;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.message.MessageBuilder;
import org.apache.rocketmq.client.apis.message.MessageView;

/** What message n holds. */
final class Content {
    private static final String[] COLORS = {"red", "green", "blue"};

    private Content() {
    }

    static MessageBuilder message(ClientServiceProvider provider, String topic, int n, int lines) {
        MessageBuilder builder = provider.newMessageBuilder()
            .setTopic(topic)
            .setBody(body(n).getBytes(StandardCharsets.UTF_8))
            .setTag(tag(n))
            .setKeys("key-" + n)
            .addProperty("n", Integer.toString(n))
            .addProperty("color", COLORS[n % COLORS.length]);
        if (n % 5 != 0) {
            builder.addProperty("price", String.format(Locale.ROOT, "%.1f", n * 1.5));
        }
        if (lines > 0) {
            builder.setMessageGroup("line-" + n % lines);
        }
        return builder;
    }

    static int number(MessageView received) {
        return Integer.parseInt(received.getProperties().get("n"));
    }

    static boolean isWrong(MessageView received) {
        int n = number(received);
        ByteBuffer body = received.getBody();
        return !StandardCharsets.UTF_8.decode(body).toString().equals(body(n))
            || !received.getTag().equals(Optional.of(tag(n)))
            || !List.copyOf(received.getKeys()).equals(List.of("key-" + n));
    }

    private static String body(int n) {
        return "message " + n;
    }

    private static String tag(int n) {
        if (n < 30) {
            return "low";
        }
        return n % 2 == 0 ? "even" : "odd";
    }
}
