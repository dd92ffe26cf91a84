// Prompts and resources of the conformance server, with completion and subscription.

import { completable, ResourceNotFoundError, ResourceTemplate } from '@modelcontextprotocol/server';
import * as z from 'zod';

import { askFor, elicit } from './asking.mjs';
import { embedded, image, PIXEL, text } from './content.mjs';

/** The resource that may be subscribed to. */
export const WATCHED = 'test://watched-resource';
/** What completion has to offer for an argument. */
const WORDS = ['alpha', 'beta', 'gamma', 'testing', 'tests'];

const completed = (description) =>
  completable(z.string().describe(description), (typed) => WORDS.filter((word) => word.startsWith(typed)));
const says = (...contents) => ({ messages: contents.map((content) => ({ role: 'user', content })) });

export function registerPrompts(server) {
  server.registerPrompt('test_simple_prompt', { description: 'Takes no arguments.' }, () =>
    says(text('A prompt as simple as can be.')),
  );
  server.registerPrompt(
    'test_prompt_with_arguments',
    {
      description: 'Takes two arguments.',
      argsSchema: z.object({ arg1: completed('The first argument'), arg2: completed('The second argument') }),
    },
    ({ arg1, arg2 }) => says(text(`The first is ${arg1}, the second ${arg2}.`)),
  );
  server.registerPrompt(
    'test_prompt_with_embedded_resource',
    { description: 'Holds a resource.', argsSchema: z.object({ resourceUri: z.string().describe('Its URI') }) },
    ({ resourceUri }) => says(embedded(resourceUri, 'text/plain', 'What it holds.'), text('Read this resource.')),
  );
  server.registerPrompt('test_prompt_with_image', { description: 'Holds a picture.' }, () =>
    says(image(), text('Look at this picture.')),
  );
  server.registerPrompt('test_input_required_result_prompt', { description: 'Asks for its context first.' }, (ctx) =>
    askFor(
      ctx,
      { user_context: elicit('In which context?', { context: { type: 'string' } }) },
      ({ user_context }) => says(text(`The context is ${user_context.content?.context ?? 'not given'}.`)),
    ),
  );
}

export function registerResources(server, watched) {
  const fixed = (name, uri, mimeType, description, content) =>
    server.registerResource(name, uri, { description, mimeType }, () => ({ contents: [{ uri, mimeType, ...content }] }));
  fixed('static-text', 'test://static-text', 'text/plain', 'Words.', { text: 'Words that never change.' });
  fixed('static-binary', 'test://static-binary', 'image/png', 'A picture.', { blob: PIXEL });
  fixed('watched-resource', WATCHED, 'text/plain', 'May be subscribed to.', { text: 'Watched words.' });
  server.registerResource(
    'template',
    new ResourceTemplate('test://template/{id}/data', { list: undefined }),
    { description: 'One resource for each id.', mimeType: 'application/json' },
    (uri, { id }) => ({
      contents: [{ uri: uri.href, mimeType: 'application/json', text: JSON.stringify({ id, of: 'a template' }) }],
    }),
  );

  server.server.setRequestHandler('resources/subscribe', ({ params: { uri } }) => {
    if (uri !== WATCHED) throw new ResourceNotFoundError(uri);
    watched.add(uri);
    return {};
  });
  server.server.setRequestHandler('resources/unsubscribe', ({ params: { uri } }) => {
    watched.delete(uri);
    return {};
  });
}
