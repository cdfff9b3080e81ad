"use strict";
// Puts the slim picture over the dense one, with a handle between them. Without this script they stand side by side.
for (const strip of document.querySelectorAll(".pictures")) {
  const [dense, slim] = ["dense", "slim"].map((name) => strip.querySelector(`[data-role=${name}]`));
  if (!dense || !slim) continue;
  const slider = document.createElement("figure");
  const frame = document.createElement("div");
  const handle = document.createElement("input");
  slider.className = "slider";
  frame.className = "frame";
  const pictures = [slim, dense].map((figure) => figure.querySelector("img"));
  pictures[1].classList.add("over");
  frame.append(...pictures);
  for (const [text, side] of [["dense", "l"], ["slim", "r"]]) {
    const tag = document.createElement("span");
    tag.className = `tag ${side}`;
    tag.textContent = text;
    frame.append(tag);
  }
  Object.assign(handle, { type: "range", min: 0, max: 100, value: 50 });
  handle.setAttribute("aria-label", "how much of the dense network's picture is shown");
  const move = (percent) => {
    handle.value = percent;
    frame.style.setProperty("--at", `${percent}%`);
  };
  handle.addEventListener("input", () => move(handle.value));
  const follow = (event) => {
    const box = frame.getBoundingClientRect();
    move(Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width)));
  };
  frame.addEventListener("pointermove", (event) => (event.pointerType === "mouse" || event.buttons) && follow(event));
  frame.addEventListener("pointerdown", follow);
  move(50);
  slider.append(frame, handle);
  dense.replaceWith(slider);
  slim.remove();
  strip.prepend(slider);
}
