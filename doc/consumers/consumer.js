// Reads siwa-notifyd's outbox with better-sqlite3: node consumer.js OUTBOX ACCOUNTS [once]
'use strict';
const Database = require('better-sqlite3');

const [outboxFile, accountsFile, once] = process.argv.slice(2);
const outbox = new Database(outboxFile, { readonly: true, fileMustExist: true });
const accounts = new Database(accountsFile, { fileMustExist: true });

// Each takes the person and the time of the event; none touches who signed in after it.
const actions = {
  'account-delete': accounts.prepare('DELETE FROM person WHERE sub = ? AND signed_in_ms < ?'),
  'consent-revoked': accounts.prepare('UPDATE person SET linked = 0 WHERE sub = ? AND signed_in_ms < ?'),
  'email-disabled': accounts.prepare('UPDATE person SET mail = 0 WHERE sub = ? AND signed_in_ms < ?'),
  'email-enabled': accounts.prepare('UPDATE person SET mail = 1 WHERE sub = ? AND signed_in_ms < ?'),
};
const cursor = accounts.prepare('SELECT last FROM cursor').pluck();
const moveCursor = accounts.prepare('UPDATE cursor SET last = ?');
const poll = outbox.prepare(`SELECT id, type, sub, coalesce(event_time_ms, issued_at_ms) AS timeMs
                             FROM outbox WHERE id > ? ORDER BY id LIMIT 500`);
const prunedThrough = outbox.prepare('SELECT pruned_through FROM outbox_state').pluck();

// One transaction: the work and the cursor.
const act = accounts.transaction((events) => {
  for (const { type, sub, timeMs } of events)
    if (Object.hasOwn(actions, type)) actions[type].run(sub, timeMs);
  if (events.length > 0) moveCursor.run(events.at(-1).id);
});

function consume() {
  const last = cursor.get();
  const events = poll.all(last);
  if (last < prunedThrough.get()) throw new Error(`events after ${last} were pruned unread`);
  act(events);
  return events.length;
}

function turn() {
  while (consume() > 0);
  if (once !== 'once') setTimeout(turn, 1000);
}

turn();
