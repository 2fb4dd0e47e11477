// Shows what a point of the map is, on hovering, touch and by arrow keys, and hides or highlights data sets. Without it the map is a drawing.
(function () {
  "use strict";
  var data = JSON.parse(document.getElementById("map-data").textContent);
  var map = document.getElementById("map"), svg = document.getElementById("map-points"), ring = document.getElementById("map-ring");
  var tip = document.getElementById("map-tip"), canvas = tip.querySelector("canvas"), words = tip.querySelector("span");
  var sheets = document.querySelectorAll("img.map-sheet");
  var sets = [], off = data.counts.map(function () { return false; }), current = -1;
  data.counts.forEach(function (count, number) { for (var i = 0; i < count; i += 1) { sets.push(number); } });
  var REACH = 14;  // pixels of the screen

  function scale() { return svg.getBoundingClientRect().width / svg.viewBox.baseVal.width; }
  function picture(point) {
    var cell = data.cells[point];
    canvas.hidden = cell < 0;
    if (cell < 0) { return; }
    var sheet = sheets[Math.floor(cell / data.each)], inside = cell % data.each, side = canvas.width;
    canvas.getContext("2d").drawImage(sheet, (inside % data.columns) * side, Math.floor(inside / data.columns) * side, side, side, 0, 0, side, side);
  }
  function hide() {
    current = -1;
    tip.hidden = true;
    ring.setAttribute("visibility", "hidden");
  }
  function show(point) {
    if (point === current) { return; }
    current = point;
    ring.setAttribute("cx", data.x[point]);
    ring.setAttribute("cy", data.y[point]);
    ring.setAttribute("visibility", "visible");
    var label = data.labels[data.label[point]];
    words.textContent = data.names[sets[point]] + (label ? "\n" + label : "") + "\n" + data.keys[point];
    picture(point);
    tip.hidden = false;
    var box = svg.getBoundingClientRect(), own = tip.getBoundingClientRect(), by = scale(), wide = document.documentElement.clientWidth;
    var x = box.left + data.x[point] * by, y = box.top + data.y[point] * by;
    tip.style.left = Math.min(Math.max(4, x - own.width / 2), Math.max(4, wide - own.width - 4)) + "px";
    var above = y - own.height - 12;
    tip.style.top = (above > 4 ? above : y + 12) + "px";
  }
  function hidden(point) { return !data.many && off[sets[point]]; }
  function nearest(event) {
    var box = svg.getBoundingClientRect(), by = scale(), x = (event.clientX - box.left) / by, y = (event.clientY - box.top) / by;
    var best = -1, least = Math.pow(REACH / by, 2);
    for (var i = 0; i < sets.length; i += 1) {
      var apart = Math.pow(data.x[i] - x, 2) + Math.pow(data.y[i] - y, 2);
      if (apart < least && !hidden(i)) { best = i; least = apart; }
    }
    return best;
  }
  function point(event) {
    var found = nearest(event);
    if (found < 0) { hide(); } else { show(found); }
  }
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", function (event) { if (event.pointerType === "mouse") { hide(); } });
  window.addEventListener("scroll", hide, { passive: true });

  function onwards(dx, dy) {  // the nearest point in a direction, within half a right angle of it
    var best = -1, least = Infinity;
    for (var i = 0; i < sets.length; i += 1) {
      var x = data.x[i] - data.x[current], y = data.y[i] - data.y[current], along = x * dx + y * dy, across = Math.abs(x * dy) + Math.abs(y * dx);
      if (along > 0 && across <= along && !hidden(i) && along + across < least) { best = i; least = along + across; }
    }
    return best;
  }
  var ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  map.tabIndex = 0;
  map.setAttribute("role", "application");
  map.setAttribute("aria-label", "Map of images: arrow keys go from one to the next, Escape closes");
  map.addEventListener("keydown", function (event) {
    if (event.key === "Escape") { hide(); return; }
    var way = ways[event.key];
    if (!way) { return; }
    event.preventDefault();
    var found = -1;
    if (current < 0) {
      for (var i = 0; i < sets.length && found < 0; i += 1) { if (!hidden(i)) { found = i; } }
    } else { found = onwards(way[0], way[1]); }
    if (found >= 0) { show(found); }
  });
  map.addEventListener("blur", hide);

  function press(button, number) {
    off[number] = !off[number];
    var path = document.getElementById("set-" + number), pressed = data.many ? off[number] : !off[number];
    button.setAttribute("aria-pressed", String(pressed));
    button.classList.toggle(data.many ? "on" : "off", off[number]);
    if (data.many) {
      path.classList.toggle("marked", off[number]);
      if (off[number]) { svg.insertBefore(path, ring); }
    } else { path.style.display = off[number] ? "none" : ""; }
    hide();
  }
  Array.prototype.forEach.call(document.querySelectorAll("#map-legend .entry"), function (entry, number) {
    var button = document.createElement("button");
    button.type = "button";
    button.className = "entry";
    button.setAttribute("aria-pressed", String(!data.many));
    while (entry.firstChild) { button.appendChild(entry.firstChild); }
    button.addEventListener("click", function () { press(button, number); });
    entry.replaceWith(button);
  });
  document.getElementById("map-help").hidden = false;
})();
