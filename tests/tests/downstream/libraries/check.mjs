// Has docs/downstream/context.ts judge the cases of a file: prints whether it believes each, as JSON.
//   check.mjs FOLDER_OF_THE_LIBRARY CASES
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [folder, cases] = process.argv.slice(2);
const { ContextVerifier, NotBelieved } = await import(pathToFileURL(`${folder}/context.ts`));
const world = JSON.parse(readFileSync(cases, "utf8"));
const believed = [];
for (const { contexts, body, method, target, now, audience = world.audience, times = 1 } of world.cases) {
  const verifier = new ContextVerifier(world.issuer, audience, world.jwks);
  const bytes = new TextEncoder().encode(body);
  let first, last;
  for (let time = 0; time < times; time++) {
    try {
      await verifier.verify(contexts, bytes, method, target, now);
      last = true;
    } catch (error) {
      if (!(error instanceof NotBelieved)) throw error;
      last = false;
    }
    first ??= last;
  }
  // Calls that come at once are judged alike, also while keys are fetched.
  const busy = new ContextVerifier(world.issuer, audience, world.jwks, 0);
  const all = await Promise.allSettled([1, 2, 3].map(() => busy.verify(contexts, bytes, method, target, now)));
  if (all.some(({ status }) => (status === "fulfilled") !== first)) throw new Error(JSON.stringify(all));
  believed.push(last);
}
console.log(JSON.stringify(believed));
