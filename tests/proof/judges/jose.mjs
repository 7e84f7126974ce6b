// npm's jose in the differential run: node jose.mjs KEY_SET NOW AUDIENCE < CASES
// Each line of CASES is a token in hexadecimal; each line of the output is `SIGNATURE CLAIMS`, 1 or 0.
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { compactVerify, createLocalJWKSet, jwtVerify } from 'jose';

const [, , keySet, now, audience] = process.argv;
const keys = createLocalJWKSet(JSON.parse(readFileSync(keySet, 'utf8')));
const algorithms = ['RS256'];
const claims = { algorithms, audience, issuer: 'https://appleid.apple.com', clockTolerance: 300, currentDate: new Date(now * 1000) };

const verifies = async (verify) => {
  try {
    await verify();
    return 1;
  } catch (error) {
    return 0;
  }
};

for await (const line of createInterface({ input: process.stdin })) {
  const token = Buffer.from(line, 'hex').toString('latin1');
  const signature = await verifies(() => compactVerify(token, keys, { algorithms }));
  const whole = await verifies(() => jwtVerify(token, keys, claims));
  process.stdout.write(`${signature} ${whole}\n`);
}
