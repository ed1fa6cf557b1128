"use strict";
// The page of one person's labelling. The server knows everything that matters: an answer counts when it says so, and
// what others said comes with its reply.

const $ = (id) => document.getElementById(id);
const TYPING_MS = 1200; // how long a first digit waits for a second one

const state = {
  overview: null, // from the server: labeler, reading, file, answered
  number: null, // of the sample that is shown
  task: null,
  step: 0, // 0-based: where the person is
  digits: "",
  history: [], // numbers of samples that were answered or skipped, in order
  skipped: new Set(),
  asWritten: false,
  busy: false,
};

function token() {
  if (location.hash.length > 1) {
    sessionStorage.setItem("token", location.hash.slice(1));
    history.replaceState(null, "", "/"); // so that it is in no bookmark, no screenshot and no history
  }
  return sessionStorage.getItem("token") || "";
}

const TOKEN = token();

async function ask(path, body) {
  const headers = { "X-Pairwright-Token": TOKEN };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const options = body === undefined ? { headers } : { headers, method: "POST", body: JSON.stringify(body) };
  let reply;
  try {
    reply = await fetch(path, options);
  } catch {
    throw new Error("the server does not answer: start it again, and open the address that it prints");
  }
  const said = await reply.json();
  if (!reply.ok) throw new Error(said.error);
  return said;
}

/** Does one thing at a time; what goes wrong is shown, and stays shown until something succeeds. */
async function alone(act) {
  if (state.busy) return;
  state.busy = true;
  try {
    await act();
    $("trouble").hidden = true;
  } catch (error) {
    $("trouble").textContent = error.message;
    $("trouble").hidden = false;
  } finally {
    state.busy = false;
  }
}

// ---------------------------------------------------------------- what is shown

async function open(number) {
  state.task = await ask(`/api/task/${number}`);
  state.number = number;
  state.step = state.task.own?.first_error ?? 0;
  state.digits = "";
  showTask();
}

function showTask() {
  const task = state.task;
  $("done").hidden = true;
  $("task").hidden = false;
  $("place").textContent = `${task.number + 1} of ${state.overview.answered.length} · ${task.source}`;
  for (const name of ["problem", "answer", "solution", "opening"]) fill($(name), task[name], state.asWritten);
  $("gold").hidden = task.answer.length === 0;
  $("solved").hidden = task.solution.length === 0;
  $("opening").hidden = task.opening.length === 0;
  $("options").hidden = task.options.length === 0;
  $("options").replaceChildren(...task.options.map((option) => filled("li", "text", option)));
  $("steps").replaceChildren(...task.steps.map(stepItem));
  $("changed").hidden = !task.changed;
  showAnswer();
  window.scrollTo(0, 0);
}

function filled(name, kind, pieces) {
  const element = document.createElement(name);
  element.className = kind;
  fill(element, pieces, state.asWritten);
  return element;
}

function stepItem(pieces, index) {
  const item = document.createElement("li");
  const mark = document.createElement("button");
  const words = filled("div", "text", pieces);
  words.id = `step-${index + 1}`;
  mark.type = "button";
  mark.className = "mark";
  mark.textContent = index + 1;
  mark.setAttribute("aria-label", `Step ${index + 1} is the first wrong one`);
  mark.setAttribute("aria-describedby", words.id);
  mark.addEventListener("click", () => alone(() => answer(index)));
  mark.addEventListener("focus", () => index !== state.step && goTo(index));
  words.addEventListener("click", () => goTo(index));
  item.append(mark, words);
  return item;
}

/** Everything that an answer changes. */
function showAnswer() {
  const { own, others } = state.task;
  const last = own === null ? null : own.first_error ?? state.task.steps.length;
  [...$("steps").children].forEach((item, index) => {
    item.classList.toggle("right", own !== null && index < last);
    item.classList.toggle("wrong", own !== null && index === last);
    item.classList.toggle("after", own !== null && index > last);
    item.querySelector(".mark").disabled = own !== null;
  });
  $("none").disabled = $("skip").disabled = own !== null;
  $("next").hidden = own === null;
  $("undo-words").textContent = own === null ? "Back" : "Take back";
  $("said").hidden = own === null || others.length === 0;
  $("others").replaceChildren(...others.map((other) => opinion(other, own)));
  say(own === null ? "" : `Saved: ${verdict(own)}.`, own !== null);
  showProgress();
  showDraft();
  showStep();
}

function verdict({ verdict: kind, first_error: step }) {
  if (kind === "invalid") return "no valid answer";
  return kind === "no_error" ? "no step is wrong" : `step ${step + 1} is the first wrong one`;
}

function opinion(other, own) {
  const item = document.createElement("li");
  const head = document.createElement("div");
  const said = document.createElement("span");
  const agrees = other.verdict === own.verdict && other.first_error === own.first_error;
  const times = other.repeat > 0 ? `, answer ${other.repeat + 1}` : "";
  said.textContent = verdict(other);
  said.className = agrees ? "agrees" : "differs";
  head.append(`${other.labeler} (${other.kind}${times}): `, said, agrees ? ", as you say" : "");
  item.append(head);
  if (other.rationale.length) item.append(filled("div", "text", other.rationale));
  if (other.correction.length) {
    const words = filled("div", "text", other.correction);
    words.prepend("The step as it should be: ");
    item.append(words);
  }
  return item;
}

function showProgress() {
  const { answered, labeler, reading, file } = state.overview;
  const count = answered.filter(Boolean).length;
  $("bar").max = answered.length;
  $("bar").value = count;
  $("count").textContent = `${count} of ${answered.length} answered`;
  $("who").textContent = reading > 1 ? `${labeler}, reading ${reading}` : labeler;
  $("file").textContent = file;
}

function showStep() {
  const items = [...$("steps").children];
  items.forEach((item, index) => {
    const here = index === state.step && state.task.own === null;
    item.toggleAttribute("aria-current", here);
    if (here) item.setAttribute("aria-current", "step");
  });
  const target = state.task.own === null ? items[state.step].querySelector(".mark") : $("next");
  target.focus({ preventScroll: true });
  if (state.task.own !== null) $("said").scrollIntoView({ block: "nearest" });
  target.scrollIntoView({ block: "nearest" });
}

function say(words, isGood = false) {
  $("status").textContent = words;
  $("status").className = isGood ? "good" : "";
}

function showEnd() {
  $("task").hidden = true;
  $("done").hidden = false;
  state.task = null;
  showProgress();
}

// ---------------------------------------------------------------- what the person does

function goTo(step) {
  if (state.task.own !== null) return;
  state.step = Math.min(Math.max(step, 0), state.task.steps.length - 1);
  showStep();
}

async function answer(firstError) {
  const { sample_id, hash, own } = state.task;
  const note = own?.words ?? draft();
  if (firstError === null && note.correction) {
    say("You have corrected a step, so one is wrong: mark it, or remove the correction (c).");
    return;
  }
  await send({ sample_id, hash, first_error: firstError, ...note });
  state.history.push(state.number);
  if (state.task.others.length) return; // there is something to read first
  const saved = `Saved: ${verdict(state.task.own)}.`;
  await next();
  if (state.task) say(`${saved} u goes back to it.`, true);
}

async function send(given) {
  Object.assign(state.task, await ask("/api/label", given));
  state.overview.answered[state.number] = true;
  state.skipped.delete(state.number);
  sessionStorage.removeItem(draftKey());
  showAnswer();
}

async function next() {
  const { answered } = state.overview;
  const order = answered.map((_, i) => (i + state.number + 1) % answered.length);
  const left = order.filter((i) => !answered[i]);
  const number = left.find((i) => !state.skipped.has(i)) ?? left[0];
  if (number === undefined) showEnd();
  else await open(number);
}

async function skip() {
  if (state.task.own !== null) return;
  state.skipped.add(state.number);
  state.history.push(state.number);
  await next();
}

/** Takes the answer that is shown back, or goes to the sample that was shown before. */
async function undo() {
  if (state.task?.own) {
    const { sample_id, hash, own } = state.task;
    keepDraft(own.words);
    Object.assign(state.task, await ask("/api/withdraw", { sample_id, hash }));
    state.overview.answered[state.number] = false;
    state.history = state.history.filter((number) => number !== state.number);
    showAnswer();
    say("Taken back.");
    return;
  }
  const number = state.history.pop();
  if (number === undefined) say("There is nothing before this.");
  else await open(number);
}

async function browse(by) {
  const number = state.task === null ? state.overview.answered.length - 1 : state.number + by;
  if (number >= 0 && number < state.overview.answered.length) await open(number);
}

/** A digit marks a step, unless a second digit could follow. */
function digit(key) {
  if (state.task.own !== null) return;
  const count = state.task.steps.length;
  const typed = Number(state.digits + key) <= count ? state.digits + key : key;
  const number = Number(typed);
  if (number < 1 || number > count) {
    state.digits = "";
    say(`There are ${count} steps.`);
    return;
  }
  goTo(number - 1);
  if (number * 10 > count) {
    state.digits = "";
    alone(() => answer(number - 1));
    return;
  }
  state.digits = typed;
  say(`Step ${typed}: Enter marks it, a further digit goes on.`);
  setTimeout(() => (state.digits = state.digits === typed ? "" : state.digits), TYPING_MS);
}

// ---------------------------------------------------------------- remarks

const draftKey = () => `draft ${state.task.sample_id}`;

function draft() {
  return JSON.parse(sessionStorage.getItem(draftKey()) || '{"rationale": "", "correction": ""}');
}

function keepDraft(words) {
  sessionStorage.setItem(draftKey(), JSON.stringify(words));
}

function showDraft() {
  const note = state.task.own?.words ?? draft();
  const parts = [note.rationale && "remark", note.correction && "correction"].filter(Boolean);
  $("draft").hidden = parts.length === 0;
  const when = state.task.own ? "Saved with your answer" : "To be saved with your answer";
  $("draft").textContent = `${when}: ${parts.join(" and ")} (c shows it).`;
}

function note() {
  const words = state.task.own?.words ?? draft();
  $("rationale").value = words.rationale;
  $("correction").value = words.correction;
  $("correction").disabled = state.task.own !== null && state.task.own.first_error === null;
  $("note-dialog").showModal();
  $("rationale").focus();
}

async function keepNote() {
  const words = { rationale: $("rationale").value, correction: $("correction").value };
  $("note-dialog").close();
  const { own, sample_id, hash } = state.task;
  if (own === null) {
    keepDraft(words);
    showDraft();
    showStep();
  } else {
    await send({ sample_id, hash, first_error: own.first_error, ...words });
  }
}

// ---------------------------------------------------------------- keys and buttons

const ANYWHERE = {
  "?": () => $("help").showModal(),
  u: () => alone(undo),
  ArrowLeft: () => alone(() => browse(-1)),
  ArrowRight: () => alone(() => browse(1)),
};
const AT_A_TASK = {
  j: () => goTo(state.step + 1),
  k: () => goTo(state.step - 1),
  ArrowDown: () => goTo(state.step + 1),
  ArrowUp: () => goTo(state.step - 1),
  Enter: () => alone(() => (state.task.own === null ? answer(state.step) : next())),
  n: () => alone(async () => state.task.own === null && answer(null)),
  s: () => alone(skip),
  c: () => note(),
  r: () => {
    state.asWritten = !state.asWritten;
    showTask();
  },
};

const MOVES = new Set(["j", "k", "ArrowDown", "ArrowUp", "ArrowLeft", "ArrowRight"]);

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.repeat && !MOVES.has(event.key)) return; // a key that is held down answers one sample
  if (document.querySelector("dialog[open]") || state.overview === null || state.busy) return;
  const onButton = event.target.closest?.("button:not(.mark)");
  if (onButton && onButton.id !== "next" && (event.key === "Enter" || event.key === " ")) return; // presses it
  const isDigit = /^[0-9]$/.test(event.key);
  const act = ANYWHERE[event.key] ?? (state.task && (AT_A_TASK[event.key] ?? (isDigit && (() => digit(event.key)))));
  if (!act) return;
  event.preventDefault();
  if (!isDigit) state.digits = "";
  act();
}

document.addEventListener("keydown", onKey);
$("none").addEventListener("click", () => alone(() => answer(null)));
$("skip").addEventListener("click", () => alone(skip));
$("note").addEventListener("click", note);
$("undo").addEventListener("click", () => alone(undo));
$("next").addEventListener("click", () => alone(next));
$("help-button").addEventListener("click", () => $("help").showModal());
$("note-cancel").addEventListener("click", () => $("note-dialog").close());
$("note-form").addEventListener("submit", (event) => {
  event.preventDefault();
  alone(keepNote);
});
$("note-form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    alone(keepNote);
  }
});

alone(async () => {
  state.overview = await ask("/api/overview");
  state.number = state.overview.answered.length - 1;
  await next();
});
