// Look at pages in headless Chromium: what the console says, what axe-core finds, and a picture of each.
// node look.cjs CHROMIUM FOLDER-FOR-PICTURES URL...  prints one JSON list: an object a page and a way to look at it.
const { chromium } = require("playwright-core");
const axe = require("axe-core").source;
const path = require("path");

const [executablePath, pictures, ...urls] = process.argv.slice(2);
const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];
const sizes = { phone: { width: 390, height: 844 }, desktop: { width: 1280, height: 900 } };

async function open(browser, url) {
  const page = await browser.newPage({ reducedMotion: "reduce" });
  const said = [];
  page.on("console", (message) => said.push(message.text()));
  page.on("pageerror", (error) => said.push(String(error)));
  page.on("requestfailed", (request) => said.push(`failed: ${request.url()}`));
  page.on("response", (answer) => answer.status() >= 400 && said.push(`${answer.status()}: ${answer.url()}`));
  await page.goto(url);
  const broken = await page.evaluate(async () => {
    const images = [...document.images];
    images.forEach((image) => (image.loading = "eager"));
    await Promise.all(images.map((image) => image.decode().catch(() => {})));
    return images.filter((image) => !image.naturalWidth).map((image) => image.src);
  });
  await page.evaluate(axe);
  return { page, said, broken };
}

async function look(page, url, size, colorScheme) {
  await page.setViewportSize(sizes[size]);
  await page.emulateMedia({ colorScheme });
  const [overflow, ground] = await page.evaluate(() => [
    document.documentElement.scrollWidth - innerWidth,
    getComputedStyle(document.documentElement).backgroundColor,
  ]);
  const name = `${url.replace(/^.*?\/(?=[^/]*\/?[^/]*$)/, "").replace(/\W+/g, "-")}-${size}-${colorScheme}.png`;
  await page.screenshot({ path: path.join(pictures, name), fullPage: true });
  const found = await page.evaluate(() => axe.run({ preload: false }));
  const faults = found.violations.map((each) => `${each.id}: ${each.nodes.map((node) => node.html).join(" ")}`);
  return { size, colorScheme, overflow, ground, faults, checked: found.passes.length, picture: name };
}

(async () => {
  const browser = await chromium.launch({ executablePath, args });
  const seen = [];
  for (const url of urls) {
    const { page, said, broken } = await open(browser, url);
    for (const size of Object.keys(sizes))
      for (const colorScheme of ["light", "dark"])
        seen.push({ url, said, broken, ...(await look(page, url, size, colorScheme)) });
    await page.close();
  }
  await browser.close();
  console.log(JSON.stringify(seen));
})();
