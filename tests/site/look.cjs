// Look at pages in headless Chromium: what the console says, what axe-core finds, and a picture of each.
// node look.cjs CHROMIUM FOLDER-FOR-PICTURES URL...  prints one JSON list, an object a page and a way to look at it.
const { chromium } = require("playwright-core");
const axe = require("axe-core").source;
const path = require("path");

const [executablePath, pictures, ...urls] = process.argv.slice(2);
const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];
const sizes = { phone: { width: 390, height: 844 }, desktop: { width: 1280, height: 900 } };

async function look(browser, url, size, colorScheme) {
  const page = await browser.newPage({ viewport: sizes[size], colorScheme, reducedMotion: "reduce" });
  const said = [];
  page.on("console", (message) => said.push(message.text()));
  page.on("pageerror", (error) => said.push(String(error)));
  page.on("requestfailed", (request) => said.push(`failed: ${request.url()}`));
  page.on("response", (answer) => answer.status() >= 400 && said.push(`${answer.status()}: ${answer.url()}`));
  await page.goto(url, { waitUntil: "networkidle" });
  const broken = await page.evaluate(async () => {
    const images = [...document.images];
    images.forEach((image) => (image.loading = "eager"));
    await Promise.all(images.map((image) => image.decode().catch(() => {})));
    return images.filter((image) => !image.naturalWidth).map((image) => image.src);
  });
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  const name = `${url.split("/").pop().replace(/\W/g, "-") || "home"}-${size}-${colorScheme}.png`;
  await page.screenshot({ path: path.join(pictures, name), fullPage: true });
  await page.evaluate(axe);
  const found = await page.evaluate(() => axe.run());
  const faults = found.violations.map((each) => `${each.id}: ${each.nodes.map((node) => node.html).join(" ")}`);
  const checked = found.passes.length;
  await page.close();
  return { url, size, colorScheme, said, broken, overflow, faults, checked, picture: name };
}

(async () => {
  const browser = await chromium.launch({ executablePath, args });
  const seen = [];
  for (const url of urls)
    for (const size of Object.keys(sizes))
      for (const scheme of ["light", "dark"]) seen.push(await look(browser, url, size, scheme));
  await browser.close();
  console.log(JSON.stringify(seen));
})();
