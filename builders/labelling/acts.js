"use strict";
// What the person does: with keys, buttons, and in words. One thing at a time, and each answer only once.

const TYPING_MS = 1200; // how long a first digit waits for a second one

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

async function answerHere() {
  if (state.step < 0) say("Choose a step first: j and k move, and a number marks it.");
  else await answer(state.step);
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
  Enter: () => alone(() => (state.task.own === null ? answerHere() : next())),
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
