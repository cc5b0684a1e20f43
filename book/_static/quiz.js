// <alignlab-quiz>: one question as a radio group that answers at once and says why; what was answered is kept in this browser.
// <alignlab-quiz-summary>: marks its links by what was answered. Without this script the answers are details elements.
(() => {
  "use strict";
  const KEY = "alignlab.quiz";
  const CHANGED = "alignlab-quiz-changed";
  let memory = {};
  const read = () => {
    try {
      memory = JSON.parse(localStorage.getItem(KEY)) || {};
    } catch {
      // storage is off or holds something else: answers last as long as the page
    }
    return memory;
  };
  const write = (name, entry) => {
    memory = { ...read() };
    if (entry) memory[name] = entry;
    else delete memory[name];
    try {
      localStorage.setItem(KEY, JSON.stringify(memory));
    } catch {
      // as above
    }
    document.dispatchEvent(new CustomEvent(CHANGED));
  };

  class Quiz extends HTMLElement {
    connectedCallback() {
      if (this.ready) return;
      this.ready = true;
      const name = this.dataset.quiz;
      const question = this.querySelector(".al-quiz-question");
      question.id = `${this.id}-question`;
      const list = this.querySelector(".al-quiz-answers");
      list.setAttribute("role", "radiogroup");
      list.setAttribute("aria-labelledby", question.id);
      this.answers = [...list.children].map((item, index) => {
        const details = item.querySelector("details");
        const label = document.createElement("label");
        const input = document.createElement("input");
        input.type = "radio";
        input.name = this.id;
        input.addEventListener("change", () => this.choose(index, true));
        const text = document.createElement("span");
        text.className = "al-quiz-text";
        text.append(...details.querySelector("summary").childNodes);
        label.append(input, text);
        item.setAttribute("role", "presentation");
        const why = details.querySelector(".al-quiz-why");
        why.hidden = true;
        why.id = `${this.id}-why-${index}`;
        item.replaceChildren(label, why);
        return { item, input, why, correct: item.hasAttribute("data-correct") };
      });
      this.status = document.createElement("p");
      this.status.className = "al-quiz-status";
      this.status.setAttribute("role", "status");
      this.again = document.createElement("button");
      this.again.type = "button";
      this.again.className = "al-quiz-again";
      this.again.textContent = "Clear my answer";
      this.again.hidden = true;
      this.again.addEventListener("click", () => this.clear());
      this.append(this.status, this.again);
      this.setAttribute("data-live", "");
      const before = read()[name];
      if (before && this.answers[before.answer]) this.choose(before.answer, false);
    }

    choose(index, byReader) {
      const chosen = this.answers[index];
      chosen.input.checked = true;
      this.answers.forEach(({ item, input, why }, place) => {
        const here = place === index;
        why.hidden = !here;
        item.toggleAttribute("data-chosen", here);
        if (here) input.setAttribute("aria-describedby", why.id);
        else input.removeAttribute("aria-describedby");
      });
      this.again.hidden = false;
      this.setAttribute("data-outcome", chosen.correct ? "right" : "wrong");
      if (!byReader) return;
      this.status.replaceChildren(...chosen.why.cloneNode(true).childNodes);
      write(this.dataset.quiz, { answer: index, correct: chosen.correct });
    }

    clear() {
      this.answers.forEach(({ item, input, why }) => {
        input.checked = false;
        why.hidden = true;
        item.removeAttribute("data-chosen");
        input.removeAttribute("aria-describedby");
      });
      this.removeAttribute("data-outcome");
      this.status.textContent = "";
      this.again.hidden = true;
      write(this.dataset.quiz, null);
      this.answers[0].input.focus();
    }
  }

  class Summary extends HTMLElement {
    connectedCallback() {
      this.update = () => {
        const answered = read();
        const links = [...this.querySelectorAll("a[data-quiz]")];
        let right = 0;
        links.forEach((link, index) => {
          const entry = answered[link.dataset.quiz];
          const state = entry ? (entry.correct ? "right" : "wrong") : "open";
          link.dataset.state = state;
          link.setAttribute("aria-label", `Question ${index + 1}: ${{ right: "answered right", wrong: "answered wrong", open: "not answered" }[state]}`);
          right += state === "right" ? 1 : 0;
        });
        this.querySelector(".al-quiz-score").textContent = links.length
          ? `You have answered ${right} of ${links.length} questions right.`
          : "There are no questions here yet.";
      };
      document.addEventListener(CHANGED, this.update);
      addEventListener("storage", this.update);
      this.update();
    }

    disconnectedCallback() {
      document.removeEventListener(CHANGED, this.update);
      removeEventListener("storage", this.update);
    }
  }

  customElements.define("alignlab-quiz", Quiz);
  customElements.define("alignlab-quiz-summary", Summary);
})();
