// Pieces of content that the conformance server's tools, prompts and resources are made of.

/** A picture of one pixel, PNG. */
export const PIXEL =
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';

/** A WAV file that holds no sample. */
const SILENCE = wavOfSilence().toString('base64');

function wavOfSilence() {
  const [rate, channels, bits] = [8000, 1, 8];
  const header = Buffer.alloc(44);
  header.write('RIFF', 0);
  header.writeUInt32LE(36, 4);
  header.write('WAVEfmt ', 8);
  header.writeUInt32LE(16, 16);
  header.writeUInt16LE(1, 20);
  header.writeUInt16LE(channels, 22);
  header.writeUInt32LE(rate, 24);
  header.writeUInt32LE((rate * channels * bits) / 8, 28);
  header.writeUInt16LE((channels * bits) / 8, 32);
  header.writeUInt16LE(bits, 34);
  header.write('data', 36);
  return header;
}

export const text = (words) => ({ type: 'text', text: words });
export const image = () => ({ type: 'image', data: PIXEL, mimeType: 'image/png' });
export const audio = () => ({ type: 'audio', data: SILENCE, mimeType: 'audio/wav' });
export const embedded = (uri, mimeType, words) => ({ type: 'resource', resource: { uri, mimeType, text: words } });
