"use strict";
// The clip: picture, masks, boxes and point tracks of the chosen frames, and the time line
// that it shares with the 4D view. Other parts listen to the "frame" event of the document.
(() => {
  const data = JSON.parse(document.getElementById("scene-data").textContent);
  const find = (id) => document.getElementById(id);
  const canvas = find("clip"), slider = find("time"), play = find("play"), label = find("moment");
  if (!canvas) return;
  const context = canvas.getContext("2d");
  const [width, height] = data.size;
  const count = data.frames.length;
  const pictures = data.pictures.map(load);
  const masks = data.masks.map((uri) => (uri ? load(uri) : null));
  const tracks = data.tracks && decodeTracks(data.tracks);
  let current = 0, timer = 0;

  function load(uri) {
    const image = new Image();
    image.addEventListener("load", () => draw());
    image.src = uri;
    return image;
  }

  function decodeTracks(packed) {
    const bytes = Uint8Array.from(atob(packed.xy), (c) => c.charCodeAt(0));
    return { xy: new Int16Array(bytes.buffer), owner: packed.owner, count: packed.owner.length };
  }

  const on = (id) => find(id) && find(id).checked;
  const ready = (image) => image && image.complete && image.naturalWidth > 0;

  function draw() {
    const box = canvas.getBoundingClientRect();
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    canvas.width = Math.max(1, Math.round(box.width * ratio));
    canvas.height = Math.max(1, Math.round((box.width * ratio * height) / width));
    const scale = canvas.width / width;
    if (ready(pictures[current])) {
      context.drawImage(pictures[current], 0, 0, canvas.width, canvas.height);
    }
    if (on("show-masks") && ready(masks[current])) {
      context.imageSmoothingEnabled = true;
      context.drawImage(masks[current], 0, 0, canvas.width, canvas.height);
    }
    if (on("show-tracks") && tracks) drawTracks(scale, ratio);
    if (on("show-boxes")) drawBoxes(scale, ratio);
  }

  function drawTracks(scale, ratio) {
    const first = Math.max(0, current - 7);
    context.lineWidth = 1.3 * ratio;
    context.lineCap = "round";
    for (let n = 0; n < tracks.count; n++) {
      const at = (k) => 2 * (k * tracks.count + n);
      if (tracks.xy[at(current)] === -32768) continue;
      const colour = data.colours[tracks.owner[n]] || "#ffffff";
      context.strokeStyle = context.fillStyle = colour;
      context.globalAlpha = tracks.owner[n] > 0 ? 0.95 : 0.45;
      context.beginPath();
      let down = false;
      for (let k = first; k <= current; k++) {
        const x = tracks.xy[at(k)], y = tracks.xy[at(k) + 1];
        if (x === -32768) { down = false; continue; }
        if (down) context.lineTo((x / 4) * scale, (y / 4) * scale);
        else context.moveTo((x / 4) * scale, (y / 4) * scale);
        down = true;
      }
      context.stroke();
      const x = (tracks.xy[at(current)] / 4) * scale, y = (tracks.xy[at(current) + 1] / 4) * scale;
      context.beginPath();
      context.arc(x, y, 1.7 * ratio, 0, 7);
      context.fill();
    }
    context.globalAlpha = 1;
  }

  function drawBoxes(scale, ratio) {
    context.font = `600 ${12 * ratio}px system-ui, sans-serif`;
    context.textBaseline = "bottom";
    for (const [id, x0, y0, x1, y1] of data.boxes[current]) {
      const colour = data.colours[id] || "#ffffff", name = data.names[id] || String(id);
      context.strokeStyle = context.fillStyle = colour;
      context.lineWidth = 2 * ratio;
      context.strokeRect(x0 * scale, y0 * scale, (x1 - x0 + 1) * scale, (y1 - y0 + 1) * scale);
      const wide = context.measureText(name).width + 8 * ratio;
      const left = Math.min(x0 * scale, canvas.width - wide);
      const top = Math.max(y0 * scale, 18 * ratio);
      context.fillRect(left - ratio, top - 17 * ratio, wide, 17 * ratio);
      context.fillStyle = "#111";
      context.fillText(name, left + 3 * ratio, top - 2 * ratio);
    }
  }

  function show(k) {
    current = Math.max(0, Math.min(count - 1, k));
    slider.value = current;
    label.textContent = data.moments[current];
    slider.setAttribute("aria-valuetext", data.moments[current]);
    const last = Math.max(1, data.frameCount - 1);
    document.documentElement.style.setProperty("--now", data.frames[current] / last);
    draw();
    document.dispatchEvent(new CustomEvent("frame", { detail: current }));
  }

  function step() {
    show((current + 1) % count);
    const next = (current + 1) % count;
    const gap = next > current ? data.times[next] - data.times[current] : 0.8;
    timer = window.setTimeout(step, Math.max(30, Math.min(1000, 1000 * gap)));
  }

  function toggle(start) {
    window.clearTimeout(timer);
    timer = 0;
    play.classList.toggle("playing", start);
    play.setAttribute("aria-label", start ? "Pause" : "Play");
    if (start) step();
  }

  slider.addEventListener("input", () => { toggle(false); show(Number(slider.value)); });
  play.addEventListener("click", () => toggle(!timer));
  for (const id of ["show-masks", "show-boxes", "show-tracks"]) {
    if (find(id)) find(id).addEventListener("change", draw);
  }
  for (const lane of document.querySelectorAll("[data-seek]")) {
    lane.addEventListener("click", (event) => {
      const box = lane.getBoundingClientRect();
      const frame = ((event.clientX - box.left) / box.width) * (data.frameCount - 1);
      let best = 0;
      data.frames.forEach((f, k) => {
        if (Math.abs(f - frame) < Math.abs(data.frames[best] - frame)) best = k;
      });
      toggle(false);
      show(best);
    });
  }
  new ResizeObserver(() => draw()).observe(canvas.parentElement);
  if (count < 2) play.disabled = slider.disabled = true;
  show(0);
})();
