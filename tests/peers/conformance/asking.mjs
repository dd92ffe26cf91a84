// Tools of the conformance server that need something of the client: a person's answer, a model's, its roots.
//
// Each is written once. A modern client gets `input_required` and comes again with the answers; for a legacy client the
// package turns the same questions into requests of the server. So the suite of either era can be run onto a server of
// either, which is what a bridge between eras is tested with.

import { randomBytes, randomUUID } from 'node:crypto';

import { CLIENT_CAPABILITIES_META_KEY, createRequestStateCodec, inputRequired } from '@modelcontextprotocol/server';
import * as z from 'zod';

import { text } from './content.mjs';

/** Seals what a tool wants to be told again; a key per process, for nothing outlives it. */
export const requestStates = createRequestStateCodec({ key: randomBytes(32) });

/** A question to a person. The first argument is the sentence, the second the fields of the form. */
export const elicit = (message, properties, required = Object.keys(properties)) => ({
  request: inputRequired.elicit({ message, requestedSchema: { type: 'object', properties, required } }),
  isAnswer: ({ action, content }) =>
    action === 'decline' || action === 'cancel' || (action === 'accept' && required.every((key) => key in (content ?? {}))),
});
const sample = (question, maxTokens) => ({
  request: inputRequired.createMessage({ messages: [{ role: 'user', content: text(question) }], maxTokens }),
  isAnswer: ({ content }) => content !== undefined,
});
const listRoots = () => ({ request: inputRequired.listRoots(), isAnswer: ({ roots }) => Array.isArray(roots) });

async function ask(questions, state) {
  const inputRequests = Object.fromEntries(Object.entries(questions).map(([key, { request }]) => [key, request]));
  if (state === undefined) return inputRequired({ inputRequests });
  return inputRequired({ inputRequests, requestState: await requestStates.mint({ ...state, nonce: randomUUID() }) });
}

/** Gives `finish` the answers to all questions, or asks for all as long as one is missing. */
export async function askFor(ctx, questions, finish, state) {
  const answers = ctx.mcpReq.inputResponses ?? {};
  const isAnswered = ([key, { isAnswer }]) =>
    typeof answers[key] === 'object' && answers[key] !== null && isAnswer(answers[key]);
  return Object.entries(questions).every(isAnswered) ? finish(answers) : ask(questions, state);
}

const words = (line) => ({ content: [text(line)] });
const formed = (answer) => words(`The person said ${answer.action}: ${JSON.stringify(answer.content ?? {})}`);
const spoken = (answer) => answer.content?.text ?? JSON.stringify(answer.content);
const confirm = () => ({ confirm: elicit('Shall this be done?', { ok: { type: 'boolean' } }) });
const askName = () => elicit('What is your name?', { name: { type: 'string' } });

/** A form whose fields have the default values that the suite compares. */
const DEFAULTS = {
  name: { type: 'string', default: 'John Doe' },
  age: { type: 'integer', default: 30 },
  score: { type: 'number', default: 95.5 },
  status: { type: 'string', enum: ['active', 'inactive', 'pending'], default: 'active' },
  verified: { type: 'boolean', default: true },
};

const titled = (...values) => values.map((value, place) => ({ const: value, title: `Choice ${place + 1}` }));
/** A form with a field of every shape that a choice may have. */
const CHOICES = {
  untitledSingle: { type: 'string', enum: ['option1', 'option2', 'option3'] },
  titledSingle: { type: 'string', oneOf: titled('value1', 'value2', 'value3') },
  legacyEnum: { type: 'string', enum: ['opt1', 'opt2', 'opt3'], enumNames: ['First', 'Second', 'Third'] },
  untitledMulti: { type: 'array', items: { type: 'string', enum: ['option1', 'option2', 'option3'] } },
  titledMulti: { type: 'array', items: { anyOf: titled('value1', 'value2', 'value3') } },
};

/** Tools without arguments: name, description, questions, what they say to the answers; `state` where some is sealed. */
const TOOLS = [
  {
    name: 'test_elicitation_sep1034_defaults',
    description: 'Shows a form with default values.',
    questions: () => ({ form: elicit('Are these right?', DEFAULTS, []) }),
    finish: ({ form }) => formed(form),
  },
  {
    name: 'test_elicitation_sep1330_enums',
    description: 'Shows a form with choices.',
    questions: () => ({ form: elicit('What do you choose?', CHOICES, []) }),
    finish: ({ form }) => formed(form),
  },
  {
    name: 'test_missing_capability',
    description: 'Needs a client that can ask a model.',
    questions: () => ({ word: sample('Say one word.', 16) }),
    finish: ({ word }) => words(`The model said: ${spoken(word)}`),
  },
  {
    name: 'test_input_required_result_elicitation',
    description: 'Asks a person for a name.',
    questions: () => ({ user_name: askName() }),
    finish: ({ user_name }) => words(`The name is ${user_name.content?.name ?? 'a secret'}.`),
  },
  {
    name: 'test_input_required_result_sampling',
    description: 'Asks a model about a capital.',
    questions: () => ({ capital_question: sample('Which city is the capital of France?', 100) }),
    finish: ({ capital_question }) => words(`The model said: ${spoken(capital_question)}`),
  },
  {
    name: 'test_input_required_result_list_roots',
    description: 'Asks for roots.',
    questions: () => ({ client_roots: listRoots() }),
    finish: ({ client_roots }) => words(`The roots are: ${client_roots.roots.map(({ uri }) => uri).join(' ')}`),
  },
  {
    name: 'test_input_required_result_request_state',
    description: 'Asks, and wants its state back.',
    questions: confirm,
    state: { of: 'request_state' },
    finish: () => words('state-ok: the state came back whole'),
  },
  {
    name: 'test_input_required_result_tampered_state',
    description: 'Asks, and refuses a state that somebody changed.',
    questions: confirm,
    state: { of: 'tampered_state' },
    finish: () => words('The state came back whole.'),
  },
  {
    name: 'test_input_required_result_multiple_inputs',
    description: 'Asks a person, a model and for roots at once.',
    questions: () => ({ user_name: askName(), greeting: sample('Greet somebody.', 50), client_roots: listRoots() }),
    state: { of: 'multiple_inputs' },
    finish: ({ user_name, greeting, client_roots }) =>
      words(`${spoken(greeting)} ${user_name.content?.name ?? 'you'}, with ${client_roots.roots.length} roots.`),
  },
  {
    name: 'test_input_required_result_capabilities',
    description: 'Asks what the client says it can answer.',
    questions: (ctx, server) => {
      const ofSession = () => server.server.getClientCapabilities() ?? {};
      const declared = ctx.mcpReq.envelope?.[CLIENT_CAPABILITIES_META_KEY] ?? ofSession();
      return {
        ...(declared.elicitation && { user_name: askName() }),
        ...(declared.sampling && { greeting: sample('Greet somebody.', 50) }),
        ...(declared.roots && { client_roots: listRoots() }),
      };
    },
    finish: (answers) => words(`Was told: ${Object.keys(answers).join(', ') || 'nothing'}.`),
  },
];

export function registerAskingTools(server) {
  for (const { name, description, questions, state, finish } of TOOLS) {
    server.registerTool(name, { description }, (ctx) => {
      const isStateBack = state === undefined || ctx.mcpReq.requestState() !== undefined;
      const asked = questions(ctx, server);
      return isStateBack ? askFor(ctx, asked, finish, state) : ask(asked, state);
    });
  }
  server.registerTool(
    'test_sampling',
    { description: 'Asks a model.', inputSchema: z.object({ prompt: z.string() }) },
    ({ prompt }, ctx) => askFor(ctx, { answer: sample(prompt, 100) }, ({ answer }) => words(`The model said: ${spoken(answer)}`)),
  );
  server.registerTool(
    'test_elicitation',
    { description: 'Asks a person.', inputSchema: z.object({ message: z.string() }) },
    ({ message }, ctx) =>
      askFor(ctx, { form: elicit(message, { response: { type: 'string' } }, []) }, ({ form }) => formed(form)),
  );
  server.registerTool(
    'test_input_required_result_multi_round',
    { description: 'Asks a person twice, the second time knowing the first answer.' },
    async (ctx) => {
      const known = ctx.mcpReq.requestState();
      const colour = { step2: elicit('Which colour do you like?', { color: { type: 'string' } }) };
      if (known?.name !== undefined) {
        return askFor(ctx, colour, ({ step2 }) => words(`${known.name} likes ${step2.content?.color ?? 'no colour'}.`), known);
      }
      const second = ({ step1 }) => ask(colour, { name: step1.content?.name ?? 'somebody' });
      return askFor(ctx, { step1: askName() }, second, { round: 1 });
    },
  );
}
