// Prints what csp_evaluator finds in the policy given as the first argument, as JSON.
import evaluator from "csp_evaluator/dist/evaluator.js";
import parser from "csp_evaluator/dist/parser.js";

const { csp } = new parser.CspParser(process.argv[2]);
const findings = new evaluator.CspEvaluator(csp, evaluator.Version?.CSP3).evaluate();
console.log(JSON.stringify(findings.map(({ directive, description, severity, value }) => ({ directive, description, severity, value }))));
