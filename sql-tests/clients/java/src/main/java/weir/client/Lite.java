package weir.client;

import java.io.Closeable;
import java.lang.reflect.Method;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.consumer.MessageListener;
import org.apache.rocketmq.client.apis.message.MessageBuilder;

/** Lite topics, which the oldest client does not have: it could not be compiled with their names. */
final class Lite {
    private static final String CONSUMER = "org.apache.rocketmq.client.apis.consumer.LitePushConsumer";

    private Lite() {
    }

    static void setLiteTopic(MessageBuilder builder, int number) throws ReflectiveOperationException {
        MessageBuilder.class.getMethod("setLiteTopic", String.class).invoke(builder, name(number));
    }

    /** Returns a push consumer that has subscribed to lite topics of a topic, whose numbers are separated by commas. */
    static Closeable consumer(
        ClientServiceProvider provider,
        ClientConfiguration configuration,
        String group,
        String topic,
        String numbers,
        MessageListener listener
    ) throws ReflectiveOperationException {
        Class<?> type = Class.forName(CONSUMER + "Builder");
        Object builder = ClientServiceProvider.class.getMethod("newLitePushConsumerBuilder").invoke(provider);
        type.getMethod("setClientConfiguration", ClientConfiguration.class).invoke(builder, configuration);
        type.getMethod("setConsumerGroup", String.class).invoke(builder, group);
        type.getMethod("bindTopic", String.class).invoke(builder, topic);
        type.getMethod("setMessageListener", MessageListener.class).invoke(builder, listener);
        Closeable consumer = (Closeable) type.getMethod("build").invoke(builder);
        Method subscribe = Class.forName(CONSUMER).getMethod("subscribeLite", String.class);
        for (String number : numbers.split(",")) {
            subscribe.invoke(consumer, name(Integer.parseInt(number)));
        }
        return consumer;
    }

    private static String name(int number) {
        return "lite-" + number;
    }
}
