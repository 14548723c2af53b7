// The table of all answers: unpacks what the page carries, filters it, and shows it as text, a page of rows at a time.
"use strict";
(async () => {
  const ROWS = 50;
  const root = document.getElementById("examples");
  const find = (name) => root.querySelector(`[data-part="${name}"]`);
  const make = (tag, text, name) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (name) element.className = name;
    return element;
  };

  async function unpack(base64) {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  let content;
  try {
    content = await unpack(document.getElementById("examples-data").textContent.trim());
  } catch (error) {
    find("count").textContent = `This browser cannot show the answers (${error.message}). The parquet files have them.`;
    return;
  }

  const answers = content.rows.map((cells) => {
    const [task, model, index, sample, group, question, correct, answer, expected, completion, logprobs, tokens, note] =
      cells;
    const [prompt, ...options] = content.questions[question];
    return {
      task: content.tasks[task], model: content.models[model], key: `${task} ${index}`,
      index, sample, group, prompt, options, correct: correct === 1, answer, expected, completion, logprobs, tokens, note,
    };
  });
  const verdicts = new Map(); // of each question: 1 where an answer is right, 2 where one is wrong, 3 for both
  for (const item of answers) verdicts.set(item.key, verdicts.get(item.key) | (item.correct ? 1 : 2));

  const filters = { task: "", group: "", model: "", verdict: "", text: "" };
  let found = answers;
  let first = 0;

  // Which option a value means: its number, or else its text; -1 where it is none of them.
  const place = (item, value) => (/^\d+$/.test(value) && Number(value) < item.options.length
    ? Number(value) : item.options.indexOf(value));
  const named = (item, value) => (item.options[place(item, value)] ?? value)?.trim();
  const chosen = (item) => named(item, item.answer);
  const expected = (item) => named(item, item.expected);
  const words = (item) => {
    item.words ??= [item.prompt, ...item.options, item.completion, item.answer, item.expected, item.note, item.group]
      .join("\n").toLowerCase();
    return item.words;
  };

  function passes(item) {
    const { task, group, model, verdict, text } = filters;
    if (task && item.task !== task) return false;
    if (group && item.group !== group) return false;
    if (model && item.model !== model) return false;
    if (verdict === "right" && !item.correct) return false;
    if (verdict === "wrong" && item.correct) return false;
    if (verdict === "both" && verdicts.get(item.key) !== 3) return false;
    return !text || words(item).includes(text);
  }

  function update() {
    found = answers.filter(passes);
    first = 0;
    draw();
  }

  function draw() {
    const rows = found.slice(first, first + ROWS);
    find("rows").replaceChildren(...rows.map(rowOf));
    const right = found.filter((item) => item.correct).length;
    const range = rows.length ? `, rows ${first + 1} to ${first + rows.length}` : "";
    find("count").textContent =
      `${found.length.toLocaleString("en")} of ${answers.length.toLocaleString("en")} answers, ` +
      `${right.toLocaleString("en")} right${range}`;
    find("previous").disabled = first === 0;
    find("next").disabled = first + ROWS >= found.length;
  }

  const excerpt = (text, length) => {
    const line = String(text ?? "").replace(/\s+/g, " ").trim();
    return line.length > length ? `…${line.slice(-length)}` : line || "–";
  };

  function rowOf(item) {
    const row = make("tr", undefined, item.correct ? "right" : "wrong");
    const name = make("th");
    name.scope = "row";
    const open = make("button", `${item.task} ${item.index}${item.sample ? `, answer ${item.sample + 1}` : ""}`);
    open.type = "button";
    open.setAttribute("aria-expanded", "false");
    name.append(open);
    if (item.group) name.append(make("div", item.group, "note"));
    const cells = [
      make("td", item.model), make("td", item.correct ? "right" : "wrong", "verdict"),
      make("td", excerpt(item.prompt, 90), "long"), make("td", excerpt(item.completion || chosen(item), 60), "long"),
      make("td", excerpt(expected(item), 40), "long"),
    ];
    row.append(name, ...cells);
    open.addEventListener("click", () => {
      const isOpen = open.getAttribute("aria-expanded") === "true";
      open.setAttribute("aria-expanded", String(!isOpen));
      if (isOpen) row.nextElementSibling.remove();
      else row.after(detailsOf(item));
    });
    return row;
  }

  function detailsOf(item) {
    const row = make("tr", undefined, "details");
    const cell = make("td");
    cell.colSpan = 6;
    const part = (title, content) => cell.append(make("h3", title), content);
    part("Asked", make("pre", item.prompt));
    if (item.options.length) part("Options", optionsOf(item));
    if (item.completion) part("Answered", make("pre", item.completion));
    const facts = `read as ${chosen(item) ?? "nothing"}; expected ${expected(item)}; ${item.correct ? "right" : "wrong"}`;
    part("Verdict", make("p", item.note ? `${facts}: ${item.note}` : facts));
    row.append(cell);
    return row;
  }

  function optionsOf(item) {
    const table = make("table");
    const head = make("tr");
    for (const title of ["option", "log-likelihood (nats)", "tokens", "a token", "which"]) head.append(make("th", title));
    table.append(head);
    item.options.forEach((option, number) => {
      const row = make("tr");
      const [sum, count] = [item.logprobs[number], item.tokens[number]];
      const marks = [place(item, item.answer) === number && "chosen", place(item, item.expected) === number && "expected"];
      row.append(
        make("td", option, "long"), make("td", sum?.toFixed(4) ?? "–"), make("td", count ?? "–"),
        make("td", count && sum !== null ? (sum / count).toFixed(4) : "–"), make("td", marks.filter(Boolean).join(", ")),
      );
      table.append(row);
    });
    return table;
  }

  function fill(name, values) {
    const select = find(name);
    for (const value of values) {
      const option = make("option", value);
      option.value = value;
      select.append(option);
    }
    select.closest("label").hidden = values.length < 2;
  }

  const groupsOf = (task) => [...new Set(answers.filter((a) => !task || a.task === task).map((a) => a.group))]
    .filter(Boolean).sort();
  fill("task", content.tasks);
  fill("model", content.models.filter((model) => answers.some((item) => item.model === model)));
  fill("group", groupsOf(""));
  for (const name of ["task", "group", "model", "verdict"]) {
    find(name).addEventListener("change", (event) => {
      filters[name] = event.target.value;
      if (name === "task") {
        find("group").length = 1;
        filters.group = "";
        fill("group", groupsOf(filters.task));
      }
      update();
    });
  }
  let timer;
  find("text").addEventListener("input", (event) => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      filters.text = event.target.value.toLowerCase();
      update();
    }, 120);
  });
  const turn = (rows) => () => {
    first += rows;
    draw();
  };
  find("previous").addEventListener("click", turn(-ROWS));
  find("next").addEventListener("click", turn(ROWS));
  find("filters").hidden = false;
  find("pages").hidden = false;
  draw();
})();
