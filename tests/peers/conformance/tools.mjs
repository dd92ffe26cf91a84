// Tools of the conformance server that answer without asking anybody: kinds of content, logging, progress, errors,
// schemas, and the ones by which the suite makes lists and resources change.

import { fromJsonSchema } from '@modelcontextprotocol/server';

import { audio, embedded, image, text } from './content.mjs';
import { WATCHED } from './context.mjs';

/** Long enough that two messages are two events for whoever reads them. */
const BETWEEN_MESSAGES_MS = 20;
const pause = () => new Promise((resolve) => setTimeout(resolve, BETWEEN_MESSAGES_MS));

/** Name, description, and what a tool without arguments answers. */
const CONTENTS = [
  ['test_simple_text', 'Answers with words.', () => [text('Words, and nothing but words.')]],
  ['test_image_content', 'Answers with a picture.', () => [image()]],
  ['test_audio_content', 'Answers with a sound.', () => [audio()]],
  [
    'test_embedded_resource',
    'Answers with a resource.',
    () => [embedded('test://embedded-resource', 'text/plain', 'What the resource holds.')],
  ],
  [
    'test_multiple_content_types',
    'Answers with words, a picture and a resource.',
    () => [
      text('Three kinds of content:'),
      image(),
      embedded('test://mixed-content-resource', 'application/json', '{"kinds":3}'),
    ],
  ],
  ['test_streaming_elicitation', 'Answers without asking anything.', () => [text('Nothing had to be asked.')]],
];

/** Uses every word of JSON Schema 2020-12 that the suite looks for; the list must show it as it stands here. */
const SCHEMA_2020_12 = {
  $schema: 'https://json-schema.org/draft/2020-12/schema',
  type: 'object',
  $defs: {
    address: {
      $anchor: 'addressDef',
      type: 'object',
      properties: { street: { type: 'string' }, city: { type: 'string' } },
    },
  },
  properties: {
    name: { type: 'string' },
    address: { $ref: '#/$defs/address' },
    contactMethod: { type: 'string', enum: ['phone', 'email'] },
    phone: { type: 'string' },
    email: { type: 'string' },
  },
  allOf: [{ anyOf: [{ required: ['phone'] }, { required: ['email'] }] }],
  if: { properties: { contactMethod: { const: 'phone' } }, required: ['contactMethod'] },
  then: { required: ['phone'] },
  else: { required: ['email'] },
  additionalProperties: false,
};

const MIRRORED_SCHEMA = {
  type: 'object',
  properties: { region: { type: 'string', 'x-mcp-header': 'Region' }, level: { type: 'integer' } },
};

export function registerTools(server, changed) {
  const plain = (name, description, answer) => server.registerTool(name, { description }, answer);
  for (const [name, description, content] of CONTENTS) plain(name, description, () => ({ content: content() }));

  plain('test_error_handling', 'Fails, as tools do.', () => {
    throw new Error('this tool always fails');
  });
  plain('test_logging_tool', 'Logs one line, if the client wants logs.', async (ctx) => {
    await ctx.mcpReq.log('info', 'one line');
    return { content: [text('Logged one line.')] };
  });
  plain('test_tool_with_logging', 'Logs three lines while it works.', async (ctx) => {
    for (const line of ['begun', 'half way', 'done']) {
      await ctx.mcpReq.log('info', line);
      await pause();
    }
    return { content: [text('Logged three lines.')] };
  });
  plain('test_tool_with_progress', 'Reports progress to whoever gave a token for it.', async (ctx) => {
    const progressToken = ctx.mcpReq._meta?.progressToken;
    for (const progress of progressToken === undefined ? [] : [0, 50, 100]) {
      const params = { progressToken, progress, total: 100, message: `${progress} of 100` };
      await ctx.mcpReq.notify({ method: 'notifications/progress', params });
      await pause();
    }
    return { content: [text(`Reported to ${progressToken ?? 'nobody'}.`)] };
  });

  const announce = (name, what, tell) =>
    plain(name, `Tells that ${what} changed.`, () => {
      tell();
      return { content: [text(`Told that ${what} changed.`)] };
    });
  announce('test_trigger_tool_change', 'the tools', () => changed.tools());
  announce('test_trigger_prompt_change', 'the prompts', () => changed.prompts());
  announce('test_trigger_resource_change', 'the watched resource', () => changed.resource(WATCHED));

  const withSchema = (name, description, schema) =>
    server.registerTool(name, { description, inputSchema: fromJsonSchema(schema) }, (input) => ({
      content: [text(JSON.stringify(input))],
    }));
  withSchema('json_schema_2020_12_tool', 'Has a schema with much of JSON Schema 2020-12.', SCHEMA_2020_12);
  withSchema('test_x_mcp_header', 'Has an argument that is mirrored in a header.', MIRRORED_SCHEMA);
}
