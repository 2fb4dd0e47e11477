// Makes the headings of tables into buttons that sort, and shows where more of a table or a drawing can be scrolled to. Nothing else needs a script.
(function () {
  "use strict";
  function key(row, column) {
    var cell = row.cells[column];
    var number = cell.getAttribute("data-value");
    return number === null ? cell.textContent.trim() : Number(number);
  }
  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") { return a - b; }
    return String(a).localeCompare(String(b), "en", { numeric: true });
  }
  function sort(table, column, heading) {
    var down = heading.getAttribute("aria-sort") === "ascending";
    var body = table.tBodies[0];
    var rows = Array.prototype.slice.call(body.rows);
    rows.sort(function (first, second) {
      var a = key(first, column), b = key(second, column);
      if (a === "" || b === "") { return (a === "") - (b === ""); }  // empty cells stay last in both directions
      return down ? compare(b, a) : compare(a, b);
    });
    rows.forEach(function (row) { body.appendChild(row); });
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (cell) { cell.removeAttribute("aria-sort"); });
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  }
  Array.prototype.forEach.call(document.querySelectorAll("table.sortable"), function (table) {
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (heading, column) {
      var button = document.createElement("button");
      button.type = "button";
      button.title = "Sort by this column";
      while (heading.firstChild) { button.appendChild(heading.firstChild); }
      button.addEventListener("click", function () { sort(table, column, heading); });
      heading.appendChild(button);
    });
  });
  Array.prototype.forEach.call(document.querySelectorAll(".scroll"), function (box) {
    function look() {  // only what can be scrolled is a stop of the tab key
      box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
      if (box.scrollWidth > box.clientWidth + 1) { box.tabIndex = 0; } else if (box !== document.activeElement) { box.removeAttribute("tabindex"); }
    }
    box.addEventListener("scroll", look, { passive: true });
    new ResizeObserver(look).observe(box);
    look();
  });
})();
