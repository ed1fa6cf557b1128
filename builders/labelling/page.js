"use strict";
// The page of one person's labelling. The server knows everything that matters: an answer counts when it says so, and
// what others said comes with its reply.

const $ = (id) => document.getElementById(id);

const state = {
  overview: null, // from the server: labeler, reading, file, answered
  number: null, // of the sample that is shown
  task: null,
  step: -1, // 0-based: where the person is; -1: nowhere yet, so that Enter pressed twice answers nothing
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
  state.step = state.task.own?.first_error ?? -1;
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
  const target = state.task.own === null ? (items[state.step]?.querySelector(".mark") ?? $("steps")) : $("next");
  target.focus({ preventScroll: true });
  if (state.task.own !== null) $("said").scrollIntoView({ block: "nearest" });
  if (target !== $("steps")) target.scrollIntoView({ block: "nearest" });
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
