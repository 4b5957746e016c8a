"""The official Python client against Weir. Arguments and output: ../README.md."""

import argparse
import importlib.metadata
import json
import sys
import threading
import time

from rocketmq import (
    ClientConfiguration,
    ConsumeResult,
    Credentials,
    FilterExpression,
    LitePushConsumer,
    LiteSimpleConsumer,
    Message,
    MessageListener,
    Producer,
    PushConsumer,
    SimpleConsumer,
    TransactionChecker,
    TransactionResolution,
)
from rocketmq.grpc_protocol import FilterType
from rocketmq.v5.exception import LiteSubscriptionQuotaExceededException

COLORS = ["red", "green", "blue"]

DELAY_SECONDS = 3

ACTIONS = ["version", "publish", "pending", "receive", "push", "lite-receive", "lite-push"]


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("--endpoint")
    parser.add_argument("--tls")
    parser.add_argument("--topic")
    parser.add_argument("--group")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--lines", type=int)
    parser.add_argument("--lite-topics")
    parser.add_argument("--pause-ms", type=int, default=0)
    parser.add_argument("--where")
    parser.add_argument("--tags")
    parser.add_argument("--expect", type=int, default=0)
    parser.add_argument("--fail-every", type=int)
    parser.add_argument("--fail-times", type=int, default=1)
    parser.add_argument("--expect-failed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--invisible", type=int, default=15)
    return parser.parse_args()


def message(topic, n, lines, lite_topics=None):
    made = Message()
    if lines:
        made.message_group = f"line-{n % lines}"
    if lite_topics:
        made.lite_topic = f"lite-{n % lite_topics}"
    made.topic = topic
    made.body = f"message {n}".encode()
    made.tag = tag(n)
    made.keys = f"key-{n}"
    made.add_property("n", str(n))
    made.add_property("color", COLORS[n % 3])
    if n % 5:
        made.add_property("price", str(n * 1.5))
    return made


def tag(n):
    if n < 30:
        return "low"
    return "odd" if n % 2 else "even"


def number(received):
    return int(received.properties["n"])


def is_wrong(received):
    n = number(received)
    keys = list(received.keys)
    wrong = received.body != f"message {n}".encode() or received.tag != tag(n) or keys != [f"key-{n}"]
    return wrong or received.corrupted


class Errors:
    """Calls that failed and were made again."""

    def __init__(self):
        self.count = 0
        self.latest = ""

    def add(self, error):
        """Notes a failure, and waits a little."""
        self.count += 1
        self.latest = repr(error)
        time.sleep(0.2)

    def repeat(self, end, call):
        """Makes a call again until it succeeds."""
        while True:
            try:
                return call()
            except Exception as error:
                if time.monotonic() > end:
                    raise
                self.add(error)

    def report(self, **more):
        return {"client": "python", "errors": self.count, "error": self.latest, **more}


class Tally:
    """What has been acknowledged and what has been given back, and when it is enough."""

    def __init__(self, args):
        self.args = args
        self.end = time.monotonic() + args.seconds
        self.values = []
        self.failed = []
        self.wrong = 0
        self.latest = time.monotonic()
        self.lock = threading.Lock()

    def fails(self, received):
        """Returns whether the message is to fail this time, and notes it then."""
        with self.lock:
            every, n = self.args.fail_every, number(received)
            if not every or n % every or self.failed.count(n) >= self.args.fail_times:
                return False
            self.failed.append(n)
            self.latest = time.monotonic()
            return True

    def add(self, received):
        with self.lock:
            self.values.append(number(received))
            self.wrong += is_wrong(received)
            self.latest = time.monotonic()

    def enough(self):
        with self.lock:
            now = time.monotonic()
            complete = len(set(self.values)) >= self.args.expect
            complete = complete and len(self.failed) >= self.args.expect_failed
            return (complete and now > self.latest + 2) or now > self.end

    def report(self, errors):
        return errors.report(values=self.values, failed=self.failed, wrong=self.wrong)


class Listener(MessageListener):
    def __init__(self, tally):
        self.tally = tally

    def consume(self, received):
        if self.tally.fails(received):
            return ConsumeResult.FAILURE
        self.tally.add(received)
        return ConsumeResult.SUCCESS


def show(report):
    print(json.dumps(report), flush=True)


def publish(args, configuration):
    producer = Producer(configuration, (args.topic,), tls_enable=args.tls is not None)
    producer.startup()
    errors = Errors()
    end = time.monotonic() + args.seconds
    lite_topics = int(args.lite_topics or 0)
    for n in range(args.first, args.first + args.count):
        errors.repeat(end, lambda: producer.send(message(args.topic, n, args.lines, lite_topics)))
        time.sleep(args.pause_ms / 1000)
    producer.shutdown()
    show(errors.report(published=args.count))


class Checker(TransactionChecker):
    """Says what becomes of transactions that nobody has ended."""

    def __init__(self):
        self.checked = set()

    def check(self, half):
        if is_wrong(half):
            raise ValueError(f"message {number(half)} came back other than it was sent")
        n = number(half)
        self.checked.add(n)
        return TransactionResolution.ROLLBACK if n % 2 else TransactionResolution.COMMIT


def pending(args, configuration):
    checker = Checker()
    producer = Producer(configuration, (args.topic,), checker, tls_enable=args.tls is not None)
    producer.startup()
    end = time.monotonic() + args.seconds
    recalled = sum(send_pending(producer, args.topic, n) for n in range(args.count))
    expected = {n for n in range(args.count) if n % 5 == 4}
    while checker.checked != expected:
        if time.monotonic() > end:
            raise TimeoutError(f"asked about {sorted(checker.checked)} alone")
        time.sleep(0.1)
    # The answers go out behind the questions.
    time.sleep(1)
    producer.shutdown()
    show(Errors().report(published=args.count, recalled=recalled))


def send_pending(producer, topic, n):
    """Sends a message, and returns whether it was recalled."""
    made = message(topic, n, None)
    kind = n % 5
    if kind < 2:
        # The client takes whole seconds.
        made.delivery_timestamp = int(time.time()) + DELAY_SECONDS
        receipt = producer.send(made)
        if kind == 1:
            producer.recall_message(topic, receipt.recall_handle)
        return kind == 1
    transaction = producer.begin_transaction()
    producer.send(made, transaction)
    if kind == 2:
        transaction.commit()
    elif kind == 3:
        transaction.rollback()
    return False


def subscribe_lite(args, consumer):
    """Subscribes, once the client has been told how many lite topics it may subscribe to."""
    end = time.monotonic() + args.seconds
    for number in args.lite_topics.split(","):
        while True:
            try:
                consumer.subscribe_lite(f"lite-{number}")
                break
            except LiteSubscriptionQuotaExceededException:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)


def receive(args, configuration, subscription):
    tls = args.tls is not None
    consumer = SimpleConsumer(configuration, args.group, subscription, await_duration=1, tls_enable=tls)
    consumer.startup()
    receive_with(args, consumer)


def lite_receive(args, configuration):
    tls = args.tls is not None
    consumer = LiteSimpleConsumer(args.topic, configuration, args.group, await_duration=1, tls_enable=tls)
    consumer.startup()
    subscribe_lite(args, consumer)
    receive_with(args, consumer)


def receive_with(args, consumer):
    errors = Errors()
    tally = Tally(args)
    while not tally.enough():
        try:
            messages = consumer.receive(32, args.invisible)
        except Exception as error:
            errors.add(error)
            continue
        for received in messages:
            if tally.fails(received):
                consumer.change_invisible_duration(received, 1)
            else:
                errors.repeat(tally.end, lambda: consumer.ack(received))
                tally.add(received)
    consumer.shutdown()
    show(tally.report(errors))


def push(args, configuration, subscription):
    tally = Tally(args)
    listener = Listener(tally)
    tls = args.tls is not None
    consumer = PushConsumer(configuration, args.group, listener, subscription, tls_enable=tls)
    consumer.startup()
    push_with(tally, consumer)


def lite_push(args, configuration):
    tally = Tally(args)
    listener = Listener(tally)
    tls = args.tls is not None
    consumer = LitePushConsumer(configuration, args.group, args.topic, listener, tls_enable=tls)
    consumer.startup()
    subscribe_lite(args, consumer)
    push_with(tally, consumer)


def push_with(tally, consumer):
    while not tally.enough():
        time.sleep(0.1)
    show(tally.report(Errors()))
    consumer.shutdown()


def subscription(args):
    if args.tags is not None:
        return {args.topic: FilterExpression(args.tags, FilterType.TAG)}
    return {args.topic: FilterExpression(args.where, FilterType.SQL)}


def main():
    args = arguments()
    if args.action == "version":
        version = importlib.metadata.version("rocketmq-python-client")
        show({"client": "python", "version": version})
        return
    configuration = ClientConfiguration(args.endpoint, Credentials())
    if args.action in ("publish", "pending"):
        act = publish if args.action == "publish" else pending
        act(args, configuration)
    elif args.action.startswith("lite-"):
        act = lite_receive if args.action == "lite-receive" else lite_push
        act(args, configuration)
    else:
        act = receive if args.action == "receive" else push
        act(args, configuration, subscription(args))


if __name__ == "__main__":
    sys.exit(main())
