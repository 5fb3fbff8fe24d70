// Asks one thing by the official client and prints what it gives, as JSON on one line.
// usage: node ask.mjs METHOD PARAMETERS   (CURTAIL_URL and CURTAIL_KEY say where and as whom)
import OpenAI from "openai";

const client = new OpenAI({ apiKey: process.env.CURTAIL_KEY, baseURL: process.env.CURTAIL_URL, maxRetries: 0 });

async function collected(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

const methods = {
  chat: async (parameters) => {
    const { data, response } = await client.chat.completions.create(parameters).withResponse();
    return { data, ineligible: response.headers.get("x-curtail-ineligible") };
  },
  chatChunks: async (parameters) => collected(await client.chat.completions.create({ ...parameters, stream: true })),
  // The helper that puts chunks together is stricter about their form than a loop over them.
  chatHelper: async (parameters) => client.chat.completions.stream(parameters).finalChatCompletion(),
  text: async (parameters) => client.completions.create(parameters),
  textChunks: async (parameters) => collected(await client.completions.create({ ...parameters, stream: true })),
  models: async () => (await client.models.list()).data,
};

const [method, parameters] = process.argv.slice(2);
try {
  console.log(JSON.stringify({ result: await methods[method](JSON.parse(parameters)) }));
} catch (error) {
  if (!(error instanceof OpenAI.APIError)) throw error;
  const { status, code, param, type } = error;
  console.log(JSON.stringify({ error: { name: error.constructor.name, status, code, param, type } }));
}
