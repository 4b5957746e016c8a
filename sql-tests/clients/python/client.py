"""The official Python client against Weir. Arguments and output: ../README.md."""

import argparse
import json
import sys
import threading
import time

from rocketmq import (
    ClientConfiguration,
    ConsumeResult,
    Credentials,
    FilterExpression,
    Message,
    MessageListener,
    Producer,
    PushConsumer,
    SimpleConsumer,
    TransactionChecker,
    TransactionResolution,
)
from rocketmq.grpc_protocol import FilterType

COLORS = ["red", "green", "blue"]


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["publish", "pending", "receive", "push"])
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--where")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--expect", type=int)
    parser.add_argument("--property", default="n")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--invisible", type=int, default=15)
    parser.add_argument("--lines", type=int)
    parser.add_argument("--fail-every", type=int)
    return parser.parse_args()


def message(topic, n, lines):
    made = Message()
    if lines:
        made.message_group = f"line-{n % lines}"
    made.topic = topic
    made.body = f"message {n}".encode()
    made.tag = "odd" if n % 2 else "even"
    made.keys = f"key-{n}"
    made.add_property("n", str(n))
    made.add_property("color", COLORS[n % 3])
    if n % 5:
        made.add_property("price", str(n * 1.5))
    return made


def is_wrong(received):
    if received.corrupted:
        return True
    n = received.properties.get("n")
    if n is None or "color" not in received.properties:
        return False
    tag = "odd" if int(n) % 2 else "even"
    keys = list(received.keys)
    return received.body != f"message {n}".encode() or received.tag != tag or keys != [f"key-{n}"]


class Tally:
    """What has been acknowledged, and when it is enough."""

    def __init__(self, args):
        self.args = args
        self.end = time.monotonic() + args.seconds
        self.values = []
        self.wrong = 0
        self.latest = time.monotonic()
        self.lock = threading.Lock()

    def add(self, received):
        with self.lock:
            self.values.append(received.properties.get(self.args.property))
            self.wrong += is_wrong(received)
            self.latest = time.monotonic()

    def enough(self):
        with self.lock:
            now = time.monotonic()
            expect = self.args.expect
            complete = expect is not None and len(self.values) >= expect and now > self.latest + 2
            return complete or self.full() or now > self.end

    def full(self):
        return self.args.limit is not None and len(self.values) >= self.args.limit

    def report(self):
        return {"client": "python", "values": self.values, "wrong": self.wrong}


class Listener(MessageListener):
    def __init__(self, tally):
        self.tally = tally
        self.failed = set()

    def consume(self, received):
        every, n = self.tally.args.fail_every, int(received.properties.get("n"))
        if every and n % every == 0 and n not in self.failed:
            self.failed.add(n)
            return ConsumeResult.FAILURE
        self.tally.add(received)
        return ConsumeResult.SUCCESS


def publish(args, configuration):
    producer = Producer(configuration, (args.topic,))
    producer.startup()
    for n in range(args.count):
        producer.send(message(args.topic, n, args.lines))
    producer.shutdown()
    return {"client": "python", "published": args.count}


class Checker(TransactionChecker):
    """Says what becomes of transactions that nobody has ended."""

    def __init__(self):
        self.checked = set()

    def check(self, half):
        n = int(half.properties.get("n"))
        if is_wrong(half):
            raise ValueError(f"message {n} came back other than it was sent")
        self.checked.add(n)
        return TransactionResolution.ROLLBACK if n % 2 else TransactionResolution.COMMIT


def pending(args, configuration):
    checker = Checker()
    producer = Producer(configuration, (args.topic,), checker)
    producer.startup()
    for n in range(args.count):
        made = message(args.topic, n, None)
        kind = n % 5
        if kind < 2:
            made.delivery_timestamp = int(time.time()) + 3
            receipt = producer.send(made)
            if kind == 1:
                producer.recall_message(args.topic, receipt.recall_handle)
            continue
        transaction = producer.begin_transaction()
        producer.send(made, transaction)
        if kind == 2:
            transaction.commit()
        elif kind == 3:
            transaction.rollback()
    end = time.monotonic() + args.seconds
    open_ones = {n for n in range(args.count) if n % 5 == 4}
    while checker.checked != open_ones:
        if time.monotonic() > end:
            raise TimeoutError(f"asked about {sorted(checker.checked)} alone")
        time.sleep(0.1)
    # The answers go out behind the questions.
    time.sleep(1)
    producer.shutdown()
    return {"client": "python", "published": args.count}


def receive(args, configuration, subscription):
    consumer = SimpleConsumer(configuration, args.group, subscription, await_duration=1)
    consumer.startup()
    tally = Tally(args)
    while not tally.enough():
        for received in consumer.receive(32, args.invisible):
            if tally.full():
                break
            consumer.ack(received)
            tally.add(received)
    consumer.shutdown()
    return tally.report()


def push(args, configuration, subscription):
    tally = Tally(args)
    consumer = PushConsumer(configuration, args.group, Listener(tally), subscription)
    consumer.startup()
    while not tally.enough():
        time.sleep(0.1)
    consumer.shutdown()
    return tally.report()


def main():
    args = arguments()
    configuration = ClientConfiguration(args.endpoint, Credentials())
    if args.action in ("publish", "pending"):
        act = publish if args.action == "publish" else pending
        report = act(args, configuration)
    else:
        subscription = {args.topic: FilterExpression(args.where, FilterType.SQL)}
        act = receive if args.action == "receive" else push
        report = act(args, configuration, subscription)
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    sys.exit(main())
