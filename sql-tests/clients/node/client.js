// The official Node client against Weir. Arguments and output: ../README.md.

'use strict';

const { parseArgs } = require('node:util');
const { setTimeout: sleep } = require('node:timers/promises');
const {
  ConsumeResult,
  FilterExpression,
  Producer,
  PushConsumer,
  SimpleConsumer,
} = require('rocketmq-client-nodejs');

const FILTER_TYPE_SQL = 2;
const COLORS = ['red', 'green', 'blue'];

// The client writes its log to standard output or a file in the home directory otherwise.
const quiet = { info() {}, warn: console.error, error: console.error, debug() {}, close() {} };

function readArguments() {
  const text = { type: 'string' };
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      endpoint: text, topic: text, group: text, count: text, where: text, limit: text, expect: text,
      property: text, seconds: text, invisible: text, lines: text, 'fail-every': text,
    },
  });
  const number = (name, otherwise) => (values[name] === undefined ? otherwise : Number(values[name]));
  return {
    ...values,
    action: positionals[0],
    count: number('count', 100),
    limit: number('limit', Infinity),
    expect: number('expect', Infinity),
    seconds: number('seconds', 60),
    invisible: number('invisible', 15),
    lines: number('lines', 0),
    failEvery: number('fail-every', 0),
    property: values.property ?? 'n',
  };
}

function message(topic, n, lines) {
  const properties = new Map([['n', String(n)], ['color', COLORS[n % 3]]]);
  if (n % 5 !== 0) properties.set('price', (n * 1.5).toFixed(1));
  return {
    topic,
    body: Buffer.from(`message ${n}`),
    tag: n % 2 ? 'odd' : 'even',
    keys: [`key-${n}`],
    properties,
    ...(lines ? { messageGroup: `line-${n % lines}` } : {}),
  };
}

function isWrong(received) {
  if (received.corrupted) return true;
  const n = received.properties.get('n');
  if (n === undefined || !received.properties.has('color')) return false;
  return received.body.toString() !== `message ${n}`
    || received.tag !== (Number(n) % 2 ? 'odd' : 'even')
    || received.keys.length !== 1 || received.keys[0] !== `key-${n}`;
}

/** What has been acknowledged, and when it is enough. */
class Tally {
  constructor(args) {
    this.args = args;
    this.end = performance.now() + args.seconds * 1000;
    this.latest = performance.now();
    this.values = [];
    this.wrong = 0;
  }

  add(received) {
    this.values.push(received.properties.get(this.args.property) ?? null);
    if (isWrong(received)) this.wrong += 1;
    this.latest = performance.now();
  }

  get full() {
    return this.values.length >= this.args.limit;
  }

  get enough() {
    const now = performance.now();
    const complete = this.values.length >= this.args.expect && now > this.latest + 2000;
    return complete || this.full || now > this.end;
  }

  report() {
    return { client: 'node', values: this.values, wrong: this.wrong };
  }
}

async function publish(args, common) {
  const producer = new Producer({ ...common, topics: [args.topic] });
  await producer.startup();
  for (let n = 0; n < args.count; n++) {
    await producer.send(message(args.topic, n, args.lines));
  }
  await producer.shutdown();
  return { client: 'node', published: args.count };
}

// As in the protocol.
const COMMIT = 1;
const ROLLBACK = 2;

async function pending(args, common) {
  const checked = new Set();
  const checker = {
    async check(half) {
      const n = Number(half.properties.get('n'));
      if (isWrong(half)) throw new Error(`message ${n} came back other than it was sent`);
      checked.add(n);
      return n % 2 ? ROLLBACK : COMMIT;
    },
  };
  const producer = new Producer({ ...common, topics: [args.topic], checker });
  await producer.startup();
  for (let n = 0; n < args.count; n++) {
    const made = message(args.topic, n, 0);
    const kind = n % 5;
    if (kind < 2) {
      const receipt = await producer.send({ ...made, deliveryTimestamp: new Date(Date.now() + 3000) });
      if (kind === 1) await producer.recallMessage(args.topic, receipt.recallHandle);
      continue;
    }
    const transaction = producer.beginTransaction();
    await producer.send(made, transaction);
    if (kind === 2) await transaction.commit();
    if (kind === 3) await transaction.rollback();
  }
  const end = performance.now() + args.seconds * 1000;
  while (checked.size < Math.floor(args.count / 5)) {
    if (performance.now() > end) throw new Error(`asked about ${[...checked]} alone`);
    await sleep(100);
  }
  // The answers go out behind the questions.
  await sleep(1000);
  await producer.shutdown();
  return { client: 'node', published: args.count };
}

async function receive(args, common, subscriptions) {
  const consumer = new SimpleConsumer({
    ...common, consumerGroup: args.group, subscriptions, awaitDuration: 1000,
  });
  await consumer.startup();
  const tally = new Tally(args);
  while (!tally.enough) {
    for (const received of await consumer.receive(32, args.invisible * 1000)) {
      if (tally.full) break;
      await consumer.ack(received);
      tally.add(received);
    }
  }
  await consumer.shutdown();
  return tally.report();
}

async function push(args, common, subscriptions) {
  const tally = new Tally(args);
  const failed = new Set();
  const messageListener = {
    consume(received) {
      const n = Number(received.properties.get('n'));
      if (args.failEvery && n % args.failEvery === 0 && !failed.has(n)) {
        failed.add(n);
        return ConsumeResult.FAILURE;
      }
      tally.add(received);
      return ConsumeResult.SUCCESS;
    },
  };
  const consumer = new PushConsumer({
    ...common, consumerGroup: args.group, subscriptions, messageListener,
  });
  await consumer.startup();
  while (!tally.enough) await sleep(100);
  await consumer.shutdown();
  return tally.report();
}

async function main() {
  const args = readArguments();
  const common = { endpoints: args.endpoint, namespace: '', logger: quiet };
  const subscriptions = new Map([[args.topic, new FilterExpression(args.where ?? '*', FILTER_TYPE_SQL)]]);
  const actions = { publish, pending, receive, push };
  const report = await actions[args.action](args, common, subscriptions);
  process.stdout.write(`${JSON.stringify(report)}\n`, () => process.exit(0));
}

main().catch(error => {
  console.error(error);
  process.exit(1);
});
