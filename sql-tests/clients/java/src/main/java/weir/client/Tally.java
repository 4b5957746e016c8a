package weir.client;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.rocketmq.client.apis.message.MessageView;

/** What has been acknowledged and what has been given back, and when it is enough. */
final class Tally {
    private static final long QUIET_NS = 2_000_000_000L;

    private final int expect;
    private final int expectFailed;
    private final int failEvery;
    private final int failTimes;
    private final long endNs;
    private long latestNs = System.nanoTime();
    private final List<Integer> values = new ArrayList<>();
    private final List<Integer> failed = new ArrayList<>();
    private final Map<Integer, Integer> failures = new HashMap<>();
    private int wrong;

    Tally(Options options) {
        expect = options.number("expect", 0);
        expectFailed = options.number("expect-failed", 0);
        failEvery = options.number("fail-every", 0);
        failTimes = options.number("fail-times", 1);
        endNs = latestNs + options.seconds("seconds", 60).toNanos();
    }

    /** Returns whether the message is to fail this time, and notes it then. */
    synchronized boolean fails(MessageView received) {
        int n = Content.number(received);
        if (failEvery == 0 || n % failEvery != 0 || failures.merge(n, 1, Integer::sum) > failTimes) {
            return false;
        }
        failed.add(n);
        latestNs = System.nanoTime();
        return true;
    }

    synchronized void add(MessageView received) {
        values.add(Content.number(received));
        if (Content.isWrong(received)) {
            wrong += 1;
        }
        latestNs = System.nanoTime();
    }

    synchronized boolean enough() {
        long now = System.nanoTime();
        boolean complete = Set.copyOf(values).size() >= expect && failed.size() >= expectFailed;
        return complete && now > latestNs + QUIET_NS || now > endNs;
    }

    /** When to end in any case, by {@code System.nanoTime}. */
    long endNs() {
        return endNs;
    }

    synchronized String report(Errors errors) {
        return String.format("{\"client\":\"java\",\"values\":%s,\"failed\":%s,\"wrong\":%d,%s}", values, failed, wrong,
            errors.report());
    }
}
