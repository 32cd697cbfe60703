// node-postgres; with the argument "pg-listen", that on top of it for what it has:
// listening, notifying and its keepalive.  See the file steps.
'use strict';

const readline = require('node:readline');
const pg = require('pg');
const withPgListen = process.argv[2] === 'pg-listen';
const createSubscriber = withPgListen ? require('pg-listen') : null;

const NOTIFY = 'SELECT pg_notify($1, $2)';
const TIMEOUT = 60000;
const sessions = {};

class Session {
  constructor(port) {
    this.address = { port: Number(port) };
    this.heard = [];
    this.arrived = () => {};
  }

  async connect() {
    this.client = new pg.Client(this.address);
    this.client.on('notification', (n) => this.hear(n.processId === this.client.processID ? 'own' : 'other', n.channel, n.payload));
    await this.client.connect();
    if (withPgListen) {
      this.subscriber = createSubscriber(this.address, { parse: String, serialize: String, paranoidChecking: 100 });
    }
  }

  hear(who, channel, payload) {
    this.heard.push(`${who} ${channel} ${payload}`);
    this.arrived();
  }

  async wait(count) {
    const deadline = Date.now() + TIMEOUT;
    while (this.heard.length < count && Date.now() < deadline) {
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, deadline - Date.now());
        this.arrived = () => { clearTimeout(timer); resolve(); };
      });
    }
    return this.heard.splice(0);
  }

  async prepared(count, channel, payload) {
    for (let i = 1; i <= count; i++) {
      await this.client.query({ name: 'notify', text: NOTIFY, values: [channel, payload + i] });
    }
    // it does not see that DISCARD ALL has dropped it
    await this.client.query('DEALLOCATE notify');
    delete this.client.connection.parsedStatements.notify;
  }

  // what it does itself when a query is cancelled
  cancel() {
    const connection = new pg.Connection({});
    const { processID, secretKey } = this.client;
    return new Promise((resolve, reject) => {
      connection.on('connect', () => connection.cancel(processID, secretKey));
      connection.on('end', resolve);
      connection.on('error', reject);
      connection.connect(this.address.port, process.env.PGHOST);
    });
  }

  async step(action, [first, second, third]) {
    switch (action) {
      case 'close': await this.client.end(); break;
      case 'pid': {
        const { rows } = await this.client.query('SELECT pg_backend_pid()');
        return [rows[0].pg_backend_pid === this.client.processID ? 'own' : 'another'];
      }
      case 'run': await this.client.query(first); break;
      case 'listen': await this.client.query(`LISTEN ${this.client.escapeIdentifier(first)}`); break;
      case 'value': return [Object.values((await this.client.query(first)).rows[0])[0]];
      case 'notify': await this.client.query(NOTIFY, [first, second]); break;
      case 'binary': await this.client.query({ text: NOTIFY, values: [Buffer.from(first), Buffer.from(second)], binary: true }); break;
      case 'prepared': await this.prepared(Number(first), second, third); break;
      case 'hear': return this.wait(Number(first));
      case 'begin': case 'commit': case 'rollback': await this.client.query(action.toUpperCase()); break;
      case 'alive': await this.client.query(''); await this.client.query('SELECT 1'); break;
      case 'cancel': await this.cancel(); break;
      case 'reset': await this.client.query('DISCARD ALL'); break;
      default: throw new Error(`unknown: ${action}`);
    }
    return ['ok'];
  }
}

async function subscriberExtras() {
  const { subscriber } = sessions.other;
  const got = [];
  let arrived;
  const both = new Promise((resolve) => { arrived = resolve; });
  subscriber.notifications.on('Any Name', (payload) => {
    got.push(payload);
    if (got.length === 2) arrived();
  });
  await subscriber.connect();
  await subscriber.listenTo('Any Name');
  await subscriber.notify('Any Name', "it's");
  // (its look whether the connection is there has come and gone by then)
  await new Promise((resolve) => setTimeout(resolve, 300));
  await sessions.listener.client.query(`NOTIFY "Any Name", 'theirs'`);
  await both;
  await subscriber.unlisten('Any Name');
  await subscriber.unlistenAll();
  await subscriber.close();
  return [`ok pg-listen: ${got}`];
}

async function extras() {
  if (withPgListen) return subscriberExtras();
  const pool = new pg.Pool({ ...sessions.other.address, max: 1 });
  await pool.query(NOTIFY, ['drivers_end', 'a']);
  const client = await pool.connect();
  await Promise.all(['BEGIN', "NOTIFY drivers_end, 'b'", 'COMMIT'].map((sql) => client.query(sql)));
  client.release();
  await pool.end();
  return [`ok a pool: ${await sessions.listener.wait(2)}`];
}

async function step(action, name, rest) {
  if (action === 'channel') return [];
  if (action === 'extras') return extras();
  if (action === 'connect') {
    sessions[name] = new Session(name === 'other' ? process.env.OTHER_PORT : process.env.PGPORT);
    await sessions[name].connect();
    return ['ok'];
  }
  return sessions[name].step(action, rest);
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [action, name, ...rest] = line.split('\t');
    process.stdout.write(`${line}\n`);
    let said;
    try {
      said = await step(action, name, rest);
    } catch (error) {
      said = [`error ${error.code || error.stack}`];
    }
    for (const text of said) process.stdout.write(`= ${text}\n`);
  }
}

main();
