// node-postgres.
const assert = require('assert')
const fs = require('fs')
const { Client } = require('pg')
const Cursor = require('pg-cursor')
const { from, to } = require('pg-copy-streams')
const { pipeline } = require('stream/promises')
const { Readable, Writable } = require('stream')

const ROWS = 20000
const isEncrypted = (process.env.PGSSLMODE || 'disable') !== 'disable'
const ssl = isEncrypted ? { ca: fs.readFileSync(process.env.PGSSLROOTCERT), servername: 'localhost' } : false

async function connected(work) {
  const client = new Client({ ssl })
  await client.connect()
  try {
    return await work(client)
  } finally {
    await client.end()
  }
}

const checks = {
  simple: () => connected(async (client) => {
    const results = await client.query("SELECT 1 AS a; SELECT 'two' AS b")
    assert.deepEqual(results.map((result) => result.rows), [[{ a: 1 }], [{ b: 'two' }]])
  }),
  extended: () => connected(async (client) => {
    const result = await client.query('SELECT $1::int + 1 AS a', [41])
    assert.equal(result.rows[0].a, 42)
  }),
  named: () => connected(async (client) => {
    for (let number = 0; number < 50; number++) {
      const result = await client.query({ name: 'twice', text: 'SELECT $1::int * 2 AS a', values: [number] })
      assert.equal(result.rows[0].a, number * 2)
    }
  }),
  copied: () => connected(async (client) => {
    await client.query('CREATE TEMP TABLE c (id int, x text)')
    const lines = (function * () {
      for (let number = 0; number < ROWS; number++) yield `${number}\t${'x'.repeat(100)}\n`
    })()
    await pipeline(Readable.from(lines), client.query(from('COPY c FROM STDIN')))
    let size = 0
    const sink = new Writable({ write(block, _, done) { size += block.length; done() } })
    await pipeline(client.query(to('COPY c TO STDOUT')), sink)
    assert(size > ROWS * 100)
  }),
  cursor: () => connected(async (client) => {
    const cursor = client.query(new Cursor('SELECT i FROM generate_series(1, 10000) i'))
    let sum = 0
    for (let rows; (rows = await cursor.read(100)).length > 0;) sum += rows.reduce((a, row) => a + row.i, 0)
    assert.equal(sum, 50005000)
    await cursor.close()
  }),
  cancelled: () => connected(async (client) => {
    await assert.rejects(client.query("SET statement_timeout = '500ms'; SELECT pg_sleep(60)"), { code: '57014' })
    assert.equal((await client.query('SELECT 1 AS a')).rows[0].a, 1)
  }),
  notified: () => connected(async (listener) => connected(async (speaker) => {
    const heard = new Promise((resolve) => listener.on('notification', resolve))
    await listener.query('LISTEN node')
    await speaker.query("SELECT pg_notify('node', 'heard')")
    assert.equal((await heard).payload, 'heard')
  })),
  written: () => connected(async (client) => {
    await client.query('CREATE TABLE IF NOT EXISTS node_t (id serial PRIMARY KEY, x timestamptz)')
    await client.query('BEGIN')
    await client.query('INSERT INTO node_t (x) VALUES ($1)', [new Date()])
    await client.query('COMMIT')
    assert((await client.query('SELECT count(*)::int AS a FROM node_t')).rows[0].a > 0)
    await client.query('DROP TABLE node_t')
  })
}

async function main() {
  let failed = 0
  for (const [name, check] of Object.entries(checks)) {
    try {
      let timer
      const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error('too late')), 120000) })
      await Promise.race([check(), late])
      clearTimeout(timer)
      console.log(`ok      node-postgres ${name}`)
    } catch (error) {
      failed++
      console.log(`FAILED  node-postgres ${name}`)
      console.error(error)
    }
  }
  process.exit(failed > 0 ? 1 : 0)
}

main()
