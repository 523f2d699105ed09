"use strict";
// The 4D view: a software renderer for points on a 2D canvas, so that it needs no WebGL.
// Stage frame: x right, y up, z back; a view is an eye, axes right/down/forward, a focal length.
(() => {
  const data = JSON.parse(document.getElementById("scene-data").textContent);
  const cloud = data.cloud, canvas = document.getElementById("cloud");
  if (!cloud || !canvas) return;
  const context = canvas.getContext("2d");
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const points = (text) =>
    Float32Array.from(new Uint16Array(bytes(text).buffer), (v) => (v / 65535 * 2 - 1) * cloud.reach);
  const pack = (text) => {
    const rgb = bytes(text), out = new Uint32Array(rgb.length / 3);
    for (let i = 0; i < out.length; i++) {
      out[i] = 0xff000000 | (rgb[3 * i + 2] << 16) | (rgb[3 * i + 1] << 8) | rgb[3 * i];
    }
    return out;
  };
  const fixed = { xyz: points(cloud.xyz), rgb: pack(cloud.rgb) };
  const moving = { xyz: points(cloud.dynXyz), rgb: pack(cloud.dynRgb), id: bytes(cloud.dynId) };
  const tint = {};
  for (const [id, hex] of Object.entries(data.colours)) {
    const v = parseInt(hex.slice(1), 16);
    tint[id] = 0xff000000 | ((v & 255) << 16) | (v & 0xff00) | (v >> 16);
  }
  const images = new Map();
  const state = { yaw: 0, pitch: 0, far: 3, target: [0, 0, 0], mode: "orbit", frame: 0 };
  let ratio = 1, pixels = null, image = null, depth = null, queued = false;

  function camera(k) {
    const c = cloud.cameras[k];
    if (!c) return null;
    return {
      eye: c.slice(0, 3), right: c.slice(3, 6), down: c.slice(6, 9), forward: c.slice(9, 12),
      fx: c[12], fy: c[13], cx: c[14], cy: c[15],
    };
  }

  function view() {
    const { width, height } = canvas;
    if (state.mode === "camera") {
      const own = camera(state.frame);
      if (own) {
        const scale = Math.min(width / cloud.size[0], height / cloud.size[1]);
        own.focal = own.fx * scale;
        own.x = width / 2 + (own.cx - (cloud.size[0] - 1) / 2) * scale;
        own.y = height / 2 + (own.cy - (cloud.size[1] - 1) / 2) * scale;
        return own;
      }
    }
    const cy = Math.cos(state.yaw), sy = Math.sin(state.yaw);
    const cp = Math.cos(state.pitch), sp = Math.sin(state.pitch);
    const forward = [-sy * cp, -sp, -cy * cp];
    const t = state.target, f = state.far;
    return {
      eye: [t[0] - forward[0] * f, t[1] - forward[1] * f, t[2] - forward[2] * f],
      right: [cy, 0, -sy], down: [sy * sp, -cp, cy * sp], forward,
      focal: 0.95 * Math.min(width, height * 1.5), x: width / 2, y: height / 2,
    };
  }

  function splat(v, xyz, rgb, first, end, grain, ids) {
    const { width, height } = canvas, [ex, ey, ez] = v.eye;
    const [rx, ry, rz] = v.right, [dx, dy, dz] = v.down, [fx, fy, fz] = v.forward;
    for (let i = first; i < end; i++) {
      const x = xyz[3 * i] - ex, y = xyz[3 * i + 1] - ey, z = xyz[3 * i + 2] - ez;
      const far = x * fx + y * fy + z * fz;
      if (far < 0.02) continue;
      const s = v.focal / far;
      const u = v.x + s * (x * rx + y * ry + z * rz), w = v.y + s * (x * dx + y * dy + z * dz);
      const side = Math.max(1, Math.min(9, Math.round(grain * s)));
      const u0 = Math.max(0, Math.round(u - side / 2)), u1 = Math.min(width, u0 + side);
      const w0 = Math.max(0, Math.round(w - side / 2)), w1 = Math.min(height, w0 + side);
      if (u < -side || w < -side || u0 >= width || w0 >= height) continue;
      const colour = ids && ids[i] && tint[ids[i]] ? mix(rgb[i], tint[ids[i]]) : rgb[i];
      for (let row = w0; row < w1; row++) {
        for (let at = row * width + u0, stop = row * width + u1; at < stop; at++) {
          if (far < depth[at]) { depth[at] = far; pixels[at] = colour; }
        }
      }
    }
  }

  function mix(a, b) { // two parts of the point's own colour, one of the object's
    return (0xff000000 |
      (((2 * ((a >> 16) & 255) + ((b >> 16) & 255)) / 3) << 16) |
      (((2 * ((a >> 8) & 255) + ((b >> 8) & 255)) / 3) << 8) |
      ((2 * (a & 255) + (b & 255)) / 3)) >>> 0;
  }

  function project(v, p) {
    const q = [p[0] - v.eye[0], p[1] - v.eye[1], p[2] - v.eye[2]];
    const dot = (a) => a[0] * q[0] + a[1] * q[1] + a[2] * q[2];
    const far = dot(v.forward);
    return far < 0.03 ? null
      : [v.x + (v.focal * dot(v.right)) / far, v.y + (v.focal * dot(v.down)) / far];
  }

  function line(v, list, colour, wide) {
    context.strokeStyle = colour;
    context.lineWidth = wide * ratio;
    context.beginPath();
    let down = false;
    for (const p of list) {
      const at = p && project(v, p);
      if (!at) { down = false; continue; }
      if (down) context.lineTo(at[0], at[1]);
      else context.moveTo(at[0], at[1]);
      down = true;
    }
    context.stroke();
  }

  function small(k) {
    if (!images.has(k)) {
      images.set(k, Object.assign(new Image(), { onload: request, src: data.pictures[k] }));
    }
    return images.get(k);
  }

  function frustum(v, k) {
    const c = camera(k);
    if (!c) return;
    const [width, height] = cloud.size, length = 0.22;
    const corner = (px, py) => [0, 1, 2].map((i) => c.eye[i] + length * (
      c.forward[i] + (c.right[i] * (px - c.cx)) / c.fx + (c.down[i] * (py - c.cy)) / c.fy));
    const corners = [corner(0, 0), corner(width, 0), corner(width, height), corner(0, height)];
    const [a, b, , d] = corners.map((p) => project(v, p)), picture = small(k);
    if (a && b && d && picture.complete && picture.naturalWidth) { // a parallelogram will do
      const w = picture.naturalWidth, h = picture.naturalHeight;
      context.save();
      context.globalAlpha = 0.85;
      context.setTransform((b[0] - a[0]) / w, (b[1] - a[1]) / w, (d[0] - a[0]) / h, (d[1] - a[1]) / h, a[0], a[1]);
      context.drawImage(picture, 0, 0);
      context.restore();
    }
    for (const p of corners) line(v, [c.eye, p], "#ffc45c", 1.2);
    line(v, [...corners, corners[0]], "#ffc45c", 1.6);
  }

  function draw() {
    queued = false;
    const box = canvas.getBoundingClientRect();
    ratio = Math.min(window.devicePixelRatio || 1, 1.5);
    const [width, height] = [box.width, box.height].map((v) => Math.max(2, Math.round(v * ratio)));
    if (!image || canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
      image = context.createImageData(width, height);
      pixels = new Uint32Array(image.data.buffer);
      depth = new Float32Array(width * height);
    }
    pixels.fill(0);
    depth.fill(Infinity);
    const v = view(), k = state.frame, offsets = cloud.dynOffsets;
    const grain = 3 / Math.sqrt(cloud.points + 1000); // about the gap between two points
    splat(v, fixed.xyz, fixed.rgb, 0, fixed.rgb.length, grain);
    splat(v, moving.xyz, moving.rgb, offsets[k], offsets[k + 1], grain, moving.id);
    context.putImageData(image, 0, 0);
    if (state.mode === "camera") return;
    context.lineJoin = "round";
    line(v, cloud.path, "rgba(255,255,255,.45)", 1.2);
    const passed = cloud.cameras.slice(0, k + 1).map((c) => c && c.slice(0, 3));
    line(v, passed, "#ffc45c", 2.6);
    for (const [id, way] of Object.entries(cloud.objects)) line(v, way, data.colours[id] || "#fff", 2);
    frustum(v, k);
  }

  function request() { if (!queued) { queued = true; window.requestAnimationFrame(draw); } }

  function turn(dx, dy) {
    if (state.mode === "camera") choose("orbit");
    state.yaw -= dx * 0.008;
    state.pitch = Math.max(-1.5, Math.min(1.55, state.pitch + dy * 0.008));
    request();
  }

  function shift(dx, dy) {
    const v = view(), s = state.far / v.focal * ratio;
    for (let i = 0; i < 3; i++) state.target[i] -= (v.right[i] * dx + v.down[i] * dy) * s;
    request();
  }

  function zoom(factor) {
    state.far = Math.max(0.15, Math.min(12, state.far * factor));
    request();
  }

  function look(yaw, pitch) { // as near as most of the points and the whole path allow
    const middle = [0, 1, 2].map((i) => cloud.path.reduce((t, p) => t + p[i], 0) / cloud.path.length);
    Object.assign(state, { yaw, pitch, target: middle.map((v) => 0.3 * v), mode: "orbit" });
    const some = Array.from({ length: Math.min(400, cloud.points) }, (_, n) => {
      const i = Math.floor((n * cloud.points) / Math.min(400, cloud.points));
      return [...fixed.xyz.subarray(3 * i, 3 * i + 3)];
    });
    for (state.far = 0.8; state.far < 12; state.far *= 1.06) {
      const v = view();
      const inside = (p) => {
        const at = project(v, p);
        return at && Math.abs(at[0] / canvas.width - 0.5) < 0.45 && Math.abs(at[1] / canvas.height - 0.5) < 0.45;
      };
      if (some.filter(inside).length >= 0.9 * some.length && cloud.path.every(inside)) break;
    }
  }

  function choose(mode) {
    if (mode === "orbit") look(0.5, 0.34);
    if (mode === "top") look(0, 1.55);
    state.mode = mode === "camera" ? "camera" : "orbit";
    document.querySelectorAll("[data-view]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.view === mode)));
    request();
  }

  const held = new Map();
  canvas.addEventListener("pointerdown", (e) => {
    canvas.setPointerCapture(e.pointerId);
    held.set(e.pointerId, [e.clientX, e.clientY]);
  });
  canvas.addEventListener("pointermove", (e) => {
    const before = held.get(e.pointerId);
    if (!before) return;
    const dx = e.clientX - before[0], dy = e.clientY - before[1];
    if (held.size === 2) {
      const other = [...held].find(([id]) => id !== e.pointerId)[1];
      const gap = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
      zoom(gap(before) / gap([e.clientX, e.clientY]));
    } else if (e.shiftKey || e.buttons === 2) shift(dx, dy);
    else turn(dx, dy);
    held.set(e.pointerId, [e.clientX, e.clientY]);
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (e) => held.delete(e.pointerId));
  canvas.addEventListener("contextmenu", (e) => e.preventDefault());
  canvas.addEventListener("wheel", (e) => {
    if (!e.ctrlKey && document.activeElement !== canvas) return; // the page scrolls on
    e.preventDefault();
    zoom(Math.exp(e.deltaY * 0.0015));
  }, { passive: false });
  canvas.addEventListener("keydown", (e) => {
    const keys = {
      ArrowLeft: () => turn(-20, 0), ArrowRight: () => turn(20, 0), ArrowUp: () => turn(0, -20),
      ArrowDown: () => turn(0, 20), "+": () => zoom(0.87), "-": () => zoom(1.15), 0: () => choose("orbit"),
    };
    if (keys[e.key]) { e.preventDefault(); keys[e.key](); }
  });
  for (const b of document.querySelectorAll("[data-view]")) b.addEventListener("click", () => choose(b.dataset.view));
  document.addEventListener("frame", (e) => { state.frame = e.detail; request(); });
  new ResizeObserver(request).observe(canvas);
  draw(); // sets the size that the first look needs
  choose("orbit");
})();
