// A real Chromium, steered by lines of JSON: node browser.mjs CHROMIUM
//
// stdin: one command a line, {"do": NAME, …}; stdout: one answer a line, {"value": …} or {"error": "…"}, in order; the
// first one, without a command, says that it runs. The end of stdin closes it. `on` is what to act on:
// {"role", "name"} (the name whole), {"label"} or {"css"}, and must be one thing. Cookies and what was loaded are
// forgotten at `fresh`. Every wait is bounded. It uses no proxy and asks for nothing in the background; its profile is
// a new folder below TMPDIR.
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const WAIT_MS_MAX = 20_000;
const CLOSE_MS_MAX = 5_000;
const SIZE = { width: 1280, height: 800 };

const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-proxy-server",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];

let browser, context, page, requests, redirects, complaints;

async function start() {
  browser = await chromium.launch({ executablePath: process.argv[2], args: FLAGS, timeout: WAIT_MS_MAX });
  await fresh();
  return browser.version();
}

async function fresh() {
  await context?.close();
  [requests, redirects, complaints] = [[], [], []];
  context = await browser.newContext({ viewport: SIZE });
  context.setDefaultTimeout(WAIT_MS_MAX);
  context.on("request", (request) => requests.push(request.url()));
  context.on("response", (response) => {
    const to = response.headers()["location"];
    if (to !== undefined && response.status() >= 300 && response.status() < 400) redirects.push(to);
  });
  context.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") complaints.push(message.text());
  });
  page = await context.newPage();
}

function find(on) {
  if (on.css !== undefined) return page.locator(on.css);
  if (on.label !== undefined) return page.getByLabel(on.label, { exact: true });
  return page.getByRole(on.role, { name: on.name, exact: true });
}

async function goto({ url }) {
  const isError = (frame) => frame === page.mainFrame() && frame.url().startsWith("chrome-error:");
  const shown = page.waitForEvent("framenavigated", { predicate: isError, timeout: CLOSE_MS_MAX }).catch(() => null);
  try {
    return (await page.goto(url))?.status() ?? null;
  } catch (error) {
    // The browser's own page about it comes later, and would come between the next page and us.
    if (String(error.message).includes("net::")) await shown;
    throw error;
  }
}

// What has the keyboard, in a few words.
function focused() {
  const element = document.activeElement;
  if (element === null || element === document.body) return null;
  const text = (element.labels?.[0] ?? element).innerText;
  return { tag: element.localName, name: element.name ?? "", value: element.value ?? "", text };
}

// What can be read in a page within the page; nothing, where the browser took it away.
function read(frame) {
  return frame.locator("body").innerText().catch((error) => {
    if (frame.isDetached()) return "";
    throw error;
  });
}

async function screenshot({ path, width, height, dark }) {
  await page.setViewportSize({ width, height });
  await page.emulateMedia({ colorScheme: dark ? "dark" : "light" });
  await page.screenshot({ path, fullPage: true });
  const wider = await page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth);
  await page.setViewportSize(SIZE);
  await page.emulateMedia({ colorScheme: "light" });
  return { overflows: wider };
}

const commands = {
  fresh,
  goto,
  click: ({ on }) => find(on).click(),
  fill: ({ on, text }) => find(on).fill(text),
  select: ({ on, value }) => find(on).selectOption({ value }).then(() => null),
  check: ({ on }) => find(on).check(),
  uncheck: ({ on }) => find(on).uncheck(),
  press: ({ key }) => page.keyboard.press(key),
  type: ({ text }) => page.keyboard.type(text),
  count: ({ on }) => find(on).filter({ visible: true }).count(),
  text: () => page.locator("body").innerText(),
  title: () => page.title(),
  focused: () => page.evaluate(focused),
  url: () => page.url(),
  value: ({ on }) => find(on).inputValue(),
  back: async () => {
    await page.goBack();
    return page.url();
  },
  reload: async () => (await page.reload())?.status() ?? null,
  // Another page of the same person; the next number opens one.
  tab: async ({ number }) => {
    page = context.pages()[number] ?? (await context.newPage());
    await page.bringToFront();
  },
  frames: () => Promise.all(page.frames().slice(1).map(read)),
  wait_url: async ({ glob }) => {
    await page.waitForURL(glob);
    return page.url();
  },
  screenshot,
  cookies: () => context.cookies(),
  requests: () => requests,
  redirects: () => redirects,
  complaints: () => complaints,
};

async function obey(line) {
  const order = JSON.parse(line);
  if (!Object.hasOwn(commands, order.do)) throw new Error(`there is no command ${order.do}`);
  return commands[order.do](order);
}

async function answer(work) {
  const said = await work().then(
    (value) => ({ value: value ?? null }),
    (error) => ({ error: String(error?.message ?? error) }),
  );
  process.stdout.write(`${JSON.stringify(said)}\n`);
}

await answer(start);
for await (const line of createInterface({ input: process.stdin })) await answer(() => obey(line));
setTimeout(() => process.exit(1), CLOSE_MS_MAX).unref();
await browser?.close();
process.exit(0);
