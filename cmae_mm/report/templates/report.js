
"use strict";
(() => {
  document.documentElement.classList.add("scripted");
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];

  // Sorting: heads become buttons; empty cells stay at the end in either direction.
  const value = (row, index) => row.cells[index].dataset.v ?? "";
  const sort = (table, index, direction) => {
    const body = table.tBodies[0];
    const compare = (a, b) => {
      const [x, y] = [value(a, index), value(b, index)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const [p, q] = [Number(x), Number(y)];
      const order = Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y, "en", { numeric: true }) : p - q;
      return direction * order;
    };
    body.append(...[...body.rows].sort(compare));
    all("thead th", table).forEach((head, place) => {
      if (place === index) head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
  };
  for (const table of all("table")) {
    all("thead th", table).forEach((head, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const first = head.classList.contains("num") ? -1 : 1;
        sort(table, index, now === null ? first : now === "ascending" ? -1 : 1);
      });
      head.replaceChildren(button);
    });
  }

  // Filters over all tables.
  const find = document.getElementById("find");
  if (find) {
    const [metric, show, count] = ["metric", "show", "count"].map((id) => document.getElementById(id));
    const rows = all("tbody tr");
    const texts = new Map(rows.map((row) => { // method, backbone, epochs, metric; task and protocol of its table
      const heads = all("h3, .words code", row.closest("article")).map((node) => node.textContent);
      return [row, [...heads, ...[0, 1, 2, 3].map((index) => value(row, index))].join(" ").toLowerCase()];
    }));
    const filter = () => {
      const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
      let kept = 0;
      for (const row of rows) {
        const fits = words.every((word) => texts.get(row).includes(word))
          && (!metric.value || row.dataset.metric === metric.value)
          && (show.value !== "measured" || row.classList.contains("measured"))
          && (show.value !== "beyond" || ["better", "worse"].includes(row.dataset.flag));
        row.hidden = !fits;
        kept += fits;
      }
      for (const article of all("article.protocol")) article.hidden = !article.querySelector("tbody tr:not([hidden])");
      count.textContent = `${kept} of ${rows.length} rows`;
    };
    find.form.addEventListener("submit", (event) => event.preventDefault());
    for (const control of [find, metric, show]) control.addEventListener("input", filter);
    filter();
  }

  // Pictures open large; Escape closes (the dialog does that), arrow keys turn.
  const viewer = document.getElementById("viewer");
  const links = all(".gallery a.open");
  let current = 0;
  const turn = (step) => {
    current = (current + step + links.length) % links.length;
    const small = links[current].querySelector("img");
    const large = viewer.querySelector("img");
    [large.src, large.alt] = [small.src, small.alt];
    viewer.querySelector("p").textContent = `${small.alt} (${current + 1} of ${links.length})`;
  };
  links.forEach((link, index) => link.addEventListener("click", (event) => {
    event.preventDefault();
    current = index;
    turn(0);
    viewer.showModal();
  }));
  viewer.querySelector(".close").addEventListener("click", () => viewer.close());
  viewer.querySelector(".previous").addEventListener("click", () => turn(-1));
  viewer.querySelector(".next").addEventListener("click", () => turn(1));
  viewer.addEventListener("close", () => links[current].focus());
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") turn(-1);
    if (event.key === "ArrowRight") turn(1);
  });
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });

  // Commands go to the clipboard; where that is not allowed, the text is selected.
  for (const button of all("button.copy")) {
    button.addEventListener("click", async () => {
      const code = button.previousElementSibling.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }
})();
