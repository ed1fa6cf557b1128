"use strict";
// Fills elements with text and MathML. Trees come from the server's list of elements and attributes; there is no HTML
// in them, and nothing here parses any: elements are made one by one, and text is only ever text.

const MATHML = "http://www.w3.org/1998/Math/MathML";
const HTML = "http://www.w3.org/1999/xhtml";
const WORDS = new Set(["b", "em", "i", "span", "strong"]);

function fill(element, pieces, asWritten) {
  element.replaceChildren(...pieces.map((piece) => (typeof piece === "string" ? piece : formula(piece, asWritten))));
}

function formula(piece, asWritten) {
  if (asWritten) {
    const code = document.createElement("code");
    code.textContent = piece.tex;
    return code;
  }
  const math = build(piece.tree);
  math.setAttribute("alttext", piece.tex);
  return math;
}

function build([name, attributes, children]) {
  const element = document.createElementNS(WORDS.has(name) ? HTML : MATHML, name);
  for (const [attribute, value] of Object.entries(attributes)) {
    element.setAttribute(attribute, value);
  }
  element.append(...children.map((child) => (typeof child === "string" ? child : build(child))));
  return element;
}
