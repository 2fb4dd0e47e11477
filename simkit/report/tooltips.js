// Shows what a cell of a heat map or a point of a plot is, on hovering and on focus; arrow keys go from one to the next. Without it the browser's own titles do.
(function () {
  "use strict";
  var box = document.createElement("div");
  box.className = "tooltip";
  box.id = "tooltip";
  box.setAttribute("aria-hidden", "true");  // what it says is read with the cell or point itself, once
  box.hidden = true;
  document.body.appendChild(box);
  var shown = null;

  function tipped(element) {
    return element && element.closest ? element.closest("table.heat td[title], table.heat td[data-tip], g.point") : null;
  }
  function tip(element) {  // the text that is the browser's title until it is asked for; then it is the name of a point and describes a cell
    if (!element.hasAttribute("data-tip")) {
      var title = element.querySelector("title"), text = title ? title.textContent : element.getAttribute("title");
      element.setAttribute("data-tip", text);
      if (title) {
        title.remove();
        element.setAttribute("role", "img");
        element.setAttribute("aria-label", text);
      } else {
        element.removeAttribute("title");
        element.setAttribute("aria-description", text);
      }
    }
    return element.getAttribute("data-tip");
  }
  function hide() {
    box.hidden = true;
    shown = null;
  }
  function show(element) {
    if (element === shown) { return; }
    hide();
    shown = element;
    box.textContent = tip(element);
    box.hidden = false;
    put(element);
  }
  function put(element) {
    var place = element.getBoundingClientRect(), own = box.getBoundingClientRect(), wide = document.documentElement.clientWidth;
    var left = Math.min(Math.max(4, place.left + place.width / 2 - own.width / 2), Math.max(4, wide - own.width - 4));
    var above = place.top - own.height - 6;
    box.style.left = left + "px";
    box.style.top = (above > 4 ? above : place.bottom + 6) + "px";
  }
  function go(from, to) {
    if (!to) { return; }
    from.tabIndex = -1;
    tip(to);
    to.tabIndex = 0;
    to.focus({ preventScroll: false });
  }
  function beside(element, key) {
    var all;
    if (element.tagName.toLowerCase() !== "td") {
      all = Array.prototype.slice.call(element.ownerSVGElement.querySelectorAll("g.point"));
      return all[all.indexOf(element) + (key === "ArrowRight" || key === "ArrowDown" ? 1 : -1)];
    }
    var row = element.parentNode, index = element.cellIndex, step = key === "ArrowRight" || key === "ArrowDown" ? 1 : -1;
    do {
      if (key === "ArrowLeft" || key === "ArrowRight") { index += step; } else { row = row.parentNode.rows[row.sectionRowIndex + step]; }
      var cell = row && row.cells[index];
      if (!cell) { return null; }
    } while (!tipped(cell));
    return cell;
  }
  Array.prototype.forEach.call(document.querySelectorAll("table.heat, figure svg"), function (holder) {
    var first = holder.querySelector("td[title], g.point");
    if (!first) { return; }
    first.setAttribute("tabindex", "0");
    if (holder.tagName.toLowerCase() === "svg") {
      holder.setAttribute("role", "group");
      tip(first);
    }
  });
  document.addEventListener("pointerover", function (event) {
    var element = tipped(event.target);
    if (element) { show(element); } else if (!tipped(document.activeElement)) { hide(); }
  });
  document.addEventListener("focusin", function (event) {
    var element = tipped(event.target);
    if (element) { show(element); } else { hide(); }
  });
  document.addEventListener("focusout", hide);
  document.addEventListener("scroll", function () {
    if (shown) { put(shown); }
  }, true);
  document.addEventListener("keydown", function (event) {
    var element = tipped(document.activeElement);
    if (event.key === "Escape") { hide(); }
    if (element && /^Arrow(Left|Right|Up|Down)$/.test(event.key)) {
      event.preventDefault();
      go(element, beside(element, event.key));
    }
  });
})();
