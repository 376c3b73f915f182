// Check pages in headless Chromium: console messages, axe-core findings and a screenshot of each.
// node accessibility.cjs CHROMIUM SCREENSHOT-FOLDER SIZES URL...  prints a JSON list: one object per page, size and color scheme.
const { chromium } = require("playwright-core");
const axe = require("axe-core").source;
const path = require("path");

const [executablePath, screenshots, sizesJson, ...urls] = process.argv.slice(2);
const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];
const sizes = JSON.parse(sizesJson);

async function open(browser, url) {
  const page = await browser.newPage({ reducedMotion: "reduce" });
  const messages = [];
  page.on("console", (message) => messages.push(message.text()));
  page.on("pageerror", (error) => messages.push(String(error)));
  page.on("requestfailed", (request) => messages.push(`failed: ${request.url()}`));
  page.on("response", (response) => response.status() >= 400 && messages.push(`${response.status()}: ${response.url()}`));
  await page.goto(url);
  const broken = await page.evaluate(async () => {
    const images = [...document.images];
    images.forEach((image) => (image.loading = "eager"));
    await Promise.all(images.map((image) => image.decode().catch(() => {})));
    return images.filter((image) => !image.naturalWidth).map((image) => image.src);
  });
  await page.evaluate(axe);
  return { page, messages, broken };
}

async function check(page, url, size, colorScheme) {
  await page.setViewportSize(sizes[size]);
  await page.emulateMedia({ colorScheme });
  const shown = page.frames().filter((frame) => !frame.parentFrame() || frame.url() === "about:srcdoc");
  const frames = await Promise.all(shown.map((frame) => frame.evaluate(() => ({
    overflow: document.documentElement.scrollWidth - innerWidth,
    footers: [...document.querySelectorAll(".footer")].map((footer) => footer.innerText.trim()),
  }))));
  const [cut, background] = await page.evaluate(() => [
    [...document.querySelectorAll("figure span")].filter((label) => label.getBoundingClientRect().right > innerWidth).length,
    getComputedStyle(document.documentElement).backgroundColor,
  ]);
  const name = `${url.replace(/^.*?\/(?=[^/]*\/?[^/]*$)/, "").replace(/\W+/g, "-")}-${size}-${colorScheme}.png`;
  await page.setViewportSize({ ...sizes[size], height: await page.evaluate(() => document.documentElement.scrollHeight) });
  await page.screenshot({ path: path.join(screenshots, name), fullPage: true });
  const result = await page.evaluate(() => axe.run({ preload: false }));
  const faults = result.violations.map((violation) => `${violation.id}: ${violation.nodes.map((node) => node.html).join(" ")}`);
  const overflow = Math.max(...frames.map((frame) => frame.overflow));
  const footers = frames.flatMap((frame) => frame.footers);
  return { size, colorScheme, overflow, footers, cut, background, faults, checked: result.passes.length, screenshot: name };
}

(async () => {
  const browser = await chromium.launch({ executablePath, args });
  const results = [];
  for (const url of urls) {
    const { page, messages, broken } = await open(browser, url);
    for (const size of Object.keys(sizes))
      for (const colorScheme of ["light", "dark"])
        results.push({ url, messages, broken, ...(await check(page, url, size, colorScheme)) });
    await page.close();
  }
  await browser.close();
  console.log(JSON.stringify(results));
})();
