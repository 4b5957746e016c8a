// The official Node client against Weir. Arguments and output: ../README.md.

'use strict';

const { parseArgs } = require('node:util');
const { setTimeout: sleep } = require('node:timers/promises');
const {
  ConsumeResult,
  FilterExpression,
  LitePushConsumerImpl,
  Producer,
  PushConsumer,
  SimpleConsumer,
} = require('rocketmq-client-nodejs');

const FILTER_TYPE_TAG = 1;
const FILTER_TYPE_SQL = 2;
const TRANSACTION_COMMIT = 1;
const TRANSACTION_ROLLBACK = 2;
const QUIET_MS = 2000;
const DELAY_MS = 3000;
const COLORS = ['red', 'green', 'blue'];

// The client writes its log to standard output or a file in the home directory otherwise.
const quiet = { info() {}, warn: console.error, error: console.error, debug() {}, close() {} };

function readArguments() {
  const text = { type: 'string' };
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      endpoint: text, tls: text, topic: text, group: text, count: text, first: text, lines: text,
      'lite-topics': text, 'pause-ms': text,
      where: text, tags: text, expect: text, 'fail-every': text, 'fail-times': text, 'expect-failed': text,
      seconds: text, invisible: text,
    },
  });
  const number = (name, otherwise) => (values[name] === undefined ? otherwise : Number(values[name]));
  return {
    ...values,
    action: positionals[0],
    count: number('count', 100),
    first: number('first', 0),
    lines: number('lines', 0),
    liteTopics: values['lite-topics'] === undefined ? [] : values['lite-topics'].split(',').map(Number),
    pauseMs: number('pause-ms', 0),
    expect: number('expect', 0),
    failEvery: number('fail-every', 0),
    failTimes: number('fail-times', 1),
    expectFailed: number('expect-failed', 0),
    seconds: number('seconds', 60),
    invisible: number('invisible', 15),
  };
}

function message(topic, n, lines, liteTopics) {
  const properties = new Map([['n', String(n)], ['color', COLORS[n % 3]]]);
  if (n % 5 !== 0) properties.set('price', (n * 1.5).toFixed(1));
  return {
    topic,
    body: Buffer.from(`message ${n}`),
    tag: tag(n),
    keys: [`key-${n}`],
    properties,
    ...(lines ? { messageGroup: `line-${n % lines}` } : {}),
    ...(liteTopics ? { liteTopic: `lite-${n % liteTopics}` } : {}),
  };
}

function tag(n) {
  if (n < 30) return 'low';
  return n % 2 ? 'odd' : 'even';
}

const numberOf = received => Number(received.properties.get('n'));

function isWrong(received) {
  const n = numberOf(received);
  return received.corrupted
    || received.body.toString() !== `message ${n}`
    || received.tag !== tag(n)
    || received.keys.length !== 1 || received.keys[0] !== `key-${n}`;
}

/** Calls that failed and were made again. */
class Errors {
  count = 0;
  latest = '';

  /** Notes a failure, and waits a little. */
  async add(error) {
    this.count += 1;
    this.latest = String(error);
    await sleep(200);
  }

  /** Makes a call again until it succeeds. */
  async repeat(end, call) {
    for (;;) {
      try {
        return await call();
      } catch (error) {
        if (performance.now() > end) throw error;
        await this.add(error);
      }
    }
  }

  report(more) {
    return { client: 'node', errors: this.count, error: this.latest, ...more };
  }
}

/** What has been acknowledged and what has been given back, and when it is enough. */
class Tally {
  constructor(args) {
    this.args = args;
    this.end = performance.now() + args.seconds * 1000;
    this.latest = performance.now();
    this.values = [];
    this.failed = [];
    this.wrong = 0;
  }

  /** Returns whether the message is to fail this time, and notes it then. */
  fails(received) {
    const { failEvery, failTimes } = this.args;
    const n = numberOf(received);
    const times = this.failed.filter(other => other === n).length;
    if (!failEvery || n % failEvery !== 0 || times >= failTimes) return false;
    this.failed.push(n);
    this.latest = performance.now();
    return true;
  }

  add(received) {
    this.values.push(numberOf(received));
    if (isWrong(received)) this.wrong += 1;
    this.latest = performance.now();
  }

  get enough() {
    const now = performance.now();
    const complete = new Set(this.values).size >= this.args.expect
      && this.failed.length >= this.args.expectFailed;
    return (complete && now > this.latest + QUIET_MS) || now > this.end;
  }

  report(errors) {
    return errors.report({ values: this.values, failed: this.failed, wrong: this.wrong });
  }
}

function show(report) {
  return new Promise(done => process.stdout.write(`${JSON.stringify(report)}\n`, done));
}

async function publish(args, common) {
  const producer = new Producer({ ...common, topics: [args.topic] });
  await producer.startup();
  const errors = new Errors();
  const end = performance.now() + args.seconds * 1000;
  for (let n = args.first; n < args.first + args.count; n++) {
    await errors.repeat(end, () => producer.send(message(args.topic, n, args.lines, args.liteTopics[0])));
    if (args.pauseMs) await sleep(args.pauseMs);
  }
  await producer.shutdown();
  await show(errors.report({ published: args.count }));
}

async function pending(args, common) {
  const checked = new Set();
  const checker = {
    async check(half) {
      const n = numberOf(half);
      if (isWrong(half)) throw new Error(`message ${n} came back other than it was sent`);
      checked.add(n);
      return n % 2 ? TRANSACTION_ROLLBACK : TRANSACTION_COMMIT;
    },
  };
  const producer = new Producer({ ...common, topics: [args.topic], checker });
  await producer.startup();
  const end = performance.now() + args.seconds * 1000;
  let recalled = 0;
  for (let n = 0; n < args.count; n++) {
    if (await sendPending(producer, args.topic, n)) recalled += 1;
  }
  while (checked.size < Math.floor(args.count / 5)) {
    if (performance.now() > end) throw new Error(`asked about ${[...checked]} alone`);
    await sleep(100);
  }
  // The answers go out behind the questions.
  await sleep(1000);
  await producer.shutdown();
  await show(new Errors().report({ published: args.count, recalled }));
}

/** Sends a message, and returns whether it was recalled. */
async function sendPending(producer, topic, n) {
  const made = message(topic, n, 0);
  const kind = n % 5;
  if (kind < 2) {
    const deliveryTimestamp = new Date(Date.now() + DELAY_MS);
    const receipt = await producer.send({ ...made, deliveryTimestamp });
    if (kind === 1) await producer.recallMessage(topic, receipt.recallHandle);
    return kind === 1;
  }
  const transaction = producer.beginTransaction();
  await producer.send(made, transaction);
  if (kind === 2) await transaction.commit();
  if (kind === 3) await transaction.rollback();
  return false;
}

async function receive(args, common, subscriptions) {
  const consumer = new SimpleConsumer({
    ...common, consumerGroup: args.group, subscriptions, awaitDuration: 1000,
  });
  await consumer.startup();
  const errors = new Errors();
  const tally = new Tally(args);
  while (!tally.enough) {
    let messages = [];
    try {
      messages = await consumer.receive(32, args.invisible * 1000);
    } catch (error) {
      await errors.add(error);
    }
    for (const received of messages) {
      if (tally.fails(received)) {
        await consumer.changeInvisibleDuration(received, 1000);
      } else {
        await errors.repeat(tally.end, () => consumer.ack(received));
        tally.add(received);
      }
    }
  }
  await consumer.shutdown();
  await show(tally.report(errors));
}

const listener = tally => ({
  consume(received) {
    if (tally.fails(received)) return ConsumeResult.FAILURE;
    tally.add(received);
    return ConsumeResult.SUCCESS;
  },
});

async function push(args, common, subscriptions) {
  const tally = new Tally(args);
  const consumer = new PushConsumer({
    ...common, consumerGroup: args.group, subscriptions, messageListener: listener(tally),
  });
  await consumer.startup();
  await pushWith(tally, consumer);
}

async function litePush(args, common) {
  const tally = new Tally(args);
  const consumer = new LitePushConsumerImpl({
    ...common, consumerGroup: args.group, bindTopic: args.topic, messageListener: listener(tally),
  });
  await consumer.startup();
  for (const number of args.liteTopics) await consumer.subscribeLite(`lite-${number}`);
  await pushWith(tally, consumer);
}

async function pushWith(tally, consumer) {
  while (!tally.enough) await sleep(100);
  await show(tally.report(new Errors()));
  await consumer.shutdown();
}

async function version() {
  const { version } = require('rocketmq-client-nodejs/package.json');
  await show({ client: 'node', version });
}

async function main() {
  const args = readArguments();
  const common = {
    endpoints: args.endpoint, namespace: '', logger: quiet, sslEnabled: args.tls !== undefined,
  };
  const filter = args.tags === undefined
    ? new FilterExpression(args.where ?? '', FILTER_TYPE_SQL)
    : new FilterExpression(args.tags, FILTER_TYPE_TAG);
  const subscriptions = new Map([[args.topic, filter]]);
  const actions = { version, publish, pending, receive, push, 'lite-push': litePush };
  await actions[args.action](args, common, subscriptions);
  process.exit(0);
}

main().catch(error => {
  console.error(error);
  process.exit(1);
});
